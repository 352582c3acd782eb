"""The command line: flags, then the environment, then defaults."""

from pathlib import Path

import pytest
from capstan_serving.settings import PREFIX, parse


def test_defaults_are_tritons_ports_and_a_strict_start():
    settings = parse(["--model-repository", "models"], {})
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (8000, 8001, 8002)
    assert settings.exit_on_error
    assert settings.termination_log is None


def test_room_for_four_of_the_largest_requests():
    chosen = ["--model-repository", "models", "--max-request-bytes", "1000"]
    assert parse(chosen, {}).max_inflight_bytes == 4000
    assert parse([*chosen, "--max-inflight-bytes", "1000"], {}).max_inflight_bytes == 1000


def test_flags_win_over_the_environment():
    environment = {
        PREFIX + "MODEL_REPOSITORY": "here",
        PREFIX + "HTTP_PORT": "9000",
        PREFIX + "EXIT_ON_ERROR": "false",
        PREFIX + "TERMINATION_LOG": "/tmp/log",
    }
    settings = parse(["--http-port", "7000"], environment)
    assert settings.model_repository == (Path("here"),)
    assert settings.http_port == 7000
    assert not settings.exit_on_error
    assert str(settings.termination_log) == "/tmp/log"
    assert parse(["--exit-on-error"], environment).exit_on_error


def test_what_may_be_repeated_is_a_list_in_the_environment():
    environment = {
        PREFIX + "MODEL_REPOSITORY": "a,b",
        PREFIX + "LOAD_MODEL": "m,n",
        PREFIX + "MODEL_CONTROL_MODE": "explicit",
        PREFIX + "PROVIDERS": "tensorrt, cuda",
    }
    settings = parse([], environment)
    assert settings.model_repository == (Path("a"), Path("b"))
    assert settings.load_model == ("m", "n")
    assert settings.providers == ("tensorrt", "cuda")
    settings = parse(["--model-repository", "x", "--load-model", "*"], environment)
    assert (settings.model_repository, settings.load_model) == ((Path("x"),), ("*",))


def test_what_the_operator_renders_is_understood():
    arguments = (
        "--model-repository /var/run/capstan/models --http-port 8000 --grpc-port 8001 --metrics-port 8002"
    )
    parse([*arguments.split(), "--termination-log", "/dev/termination-log"], {})


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {}, "--model-repository is required"),
        (["--model-repository", "m", "--max-inflight-bytes", "1"], {}, "would never fit"),
        (["--model-repository", "m", "--http-port", "70000"], {}, "70000 is no port"),
        (["--model-repository", "m", "--workers", "0"], {}, "0 is not above 0"),
        (["--model-repository", "m", "--drain-timeout", "nan"], {}, "between 0 and 86400"),
        (["--model-repository", "m"], {PREFIX + "WORKERS": "many"}, "many"),
        (["--model-repository", "m"], {PREFIX + "EXIT_ON_ERROR": "maybe"}, "true or false"),
        (["--model-repository", "m", "--unknown"], {}, "--unknown"),
        (["--model-repository", "m", "--providers", "cuda,metal"], {}, "'metal' is none of tensorrt, cuda"),
        (["--model-repository", "m", "--load-model", "a"], {}, "needs --model-control-mode explicit"),
        (
            ["--model-repository", "m"],
            {PREFIX + "MODEL_CONTROL_MODE": "maybe"},
            "must be one of none, explicit",
        ),
        (["--model-repository", "m", "--repository-poll-secs", "0"], {}, "not at least 0.1"),
    ],
)
def test_bad_settings_are_explained(arguments, environment, said, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(arguments, environment)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_help_shows_how_to_start(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    shown = capsys.readouterr().out
    assert "models/digits/1/model.onnx" in shown
    assert "CAPSTAN_SERVING_HTTP_PORT" in shown
