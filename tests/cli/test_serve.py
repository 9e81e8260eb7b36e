"""`elbod serve`: what is refused before anything is loaded."""

import pytest


@pytest.mark.parametrize("model", ["", "Digits", "digits@", "digits@0", "a b", "digits@production@1"])
def test_a_model_that_is_no_reference_is_one_clear_line(run, model):
    for done in (run("serve", "--model", model), run("serve", ELBOD_MODEL=model)):
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert "--model" in done.stderr
        assert " is no " in done.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_port_that_does_not_exist_is_a_usage_error(run, command):
    done = run(command, "--port", "70000")

    assert done.returncode == 2
    assert "65535" in done.stderr
