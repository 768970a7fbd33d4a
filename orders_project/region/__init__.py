"""
A second region as a warm standby: standbys of every database and a broker of its own, which takes over when the first
region is lost. `manage.py region` runs there, in its environment.

# Note [What the databases agree on]: standbys of one server are of one moment, as a restored backup is. Standbys of
several servers need not be: each has what it had received, so one may have forgotten what it told another. Sending
again makes good for what the one behind has not got; what it has told and forgotten is found by the inboxes of the
others (see forgotten.py).

# Note [The broker is empty]: whatever the lost one had is in the outboxes. So everything that was sent and not handled
is sent again, however short a time ago: nothing can be under way in a broker that nobody has published to.
"""
