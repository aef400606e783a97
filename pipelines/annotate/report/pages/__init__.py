"""Reports, the index and galleries as HTML: templates, one style sheet, small plots."""
