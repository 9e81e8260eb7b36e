from hypothesis import settings

# The machine's load is not a property of the code.
settings.register_profile("elbod", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("elbod")
