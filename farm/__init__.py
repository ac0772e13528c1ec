"""What a person starts: command line, controller, HTTP api, and the few files that know Ray."""
