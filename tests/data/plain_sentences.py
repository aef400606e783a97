"""Forty sentences whose sentiment nobody disputes, written before the checkpoints were trained.

They were drawn up without a look at any model, and none was changed or taken out afterwards.
"""

from __future__ import annotations

PLAIN_SENTENCES: tuple[tuple[str, str], ...] = (
    ("I love this", "positive"),
    ("What a beautiful evening with my favourite people", "positive"),
    ("Best coffee I have had in years!", "positive"),
    ("We won! So proud of this team", "positive"),
    ("Thank you so much, you made my day 😊", "positive"),
    ("The new album is absolutely brilliant", "positive"),
    ("Finally got the job, I am over the moon", "positive"),
    ("My daughter's first steps today, pure joy", "positive"),
    ("Not bad at all, I would go there again", "positive"),
    ("Great service and really friendly staff", "positive"),
    ("😍😍😍", "positive"),
    ("This puppy is the cutest thing ever", "positive"),
    ("Happy birthday to the most wonderful mum!", "positive"),
    ("Delicious food, lovely view, perfect night", "positive"),
    ("I don't like this at all", "negative"),
    ("Worst customer service ever, never again", "negative"),
    ("My phone broke again and nobody helps", "negative"),
    ("I hate waiting in the rain for a bus that never comes", "negative"),
    ("So sad to hear about the victims of the crash", "negative"),
    ("😭😭😭😭", "negative"),
    ("The film was boring and far too long", "negative"),
    ("This is not good", "negative"),
    ("Lost my wallet and missed the train, terrible day", "negative"),
    ("The food was cold and the waiter was rude", "negative"),
    ("I am so angry about this decision", "negative"),
    ("Disgusting behaviour from the fans last night", "negative"),
    ("She was never happy here", "negative"),
    ("Sick in bed again and feeling awful", "negative"),
    ("Train to Boston leaves from platform 4", "neutral"),
    ("The meeting starts at 10 on Tuesday", "neutral"),
    ("New opening hours: Monday to Friday, 9 to 5", "neutral"),
    ("He moved from Leeds to York in 2014", "neutral"),
    ("Does anyone know when the library closes?", "neutral"),
    ("Apple will present its results on Thursday", "neutral"),
    ("I am reading the second chapter now", "neutral"),
    ("The committee published its annual report today", "neutral"),
    ("Bus 12 now stops at the town hall", "neutral"),
    ("Photo taken from the bridge at noon", "neutral"),
    ("Parliament votes on the budget tomorrow", "neutral"),
    ("The shop is next to the post office", "neutral"),
)
