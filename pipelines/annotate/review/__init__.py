"""Behind `drf review`: posts drawn for people to label, and what their answers say."""
