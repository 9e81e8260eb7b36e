"""What callers ask and what they get, without HTTP: fields and arrays become a job, a result an answer."""
