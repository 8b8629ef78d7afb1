"""The command starts a server, and stops it without losing what was taken."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("uvicorn", reason="needs the serve extra")

import httpx

from blockrank_rerank.cli.app import main
from blockrank_rerank.serving.limits import ServerLimits
from tests.serving.conftest import DOCUMENTS, QUERY

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
COMMANDS = [block.strip() for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]


@contextmanager
def started(*words):
    """Run the first command of the page, on another port; the process and its address."""
    program, *arguments = shlex.split(COMMANDS[0])
    assert program == "blockrank"
    command = [sys.executable, "-m", "blockrank_rerank.cli", *arguments, "--port", "0", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "KEY": "the key"})
    try:
        lines = (json.loads(line) for line in process.stderr)
        url = next(line["url"] for line in lines if line["event"] == "start")
        next(line for line in lines if line["event"] == "ready")
        yield process, url
    finally:
        process.kill()
        process.communicate()


def test_the_first_commands_of_the_page_start_a_server_and_print_a_ranking_and_a_signal_ends_it_after_its_work():
    with started("--api-key-env", "KEY") as (process, url), ThreadPoolExecutor() as pool:
        headers = {"Authorization": "Bearer the key"}
        if which("curl"):
            asked = COMMANDS[1].replace("localhost:8765", url) + " -H 'Authorization: Bearer the key'"
            done = subprocess.run(shlex.split(asked), capture_output=True, text=True, check=True)
            best, other = json.loads(done.stdout)["results"]
            assert (best["index"], other["index"]) == (1, 0)
            shown = float(re.search(r'"relevance_score":(0\.\d+)', PAGE)[1])
            assert best["relevance_score"] == pytest.approx(shown, abs=0.02)  # in bf16 it is not to the last digit
        work = {"query": QUERY, "documents": [f"{' '.join(DOCUMENTS)} {number} " * 20 for number in range(30)]}
        answer = pool.submit(httpx.post, f"{url}/v2/rerank", json=work, headers=headers, timeout=120)
        while not answer.done():
            counters = httpx.get(f"{url}/metrics", headers=headers, timeout=120).text
            if "blockrank_requests_in_progress 2.0" in counters:  # this one is the other
                break
        process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
        assert process.wait(120) in (0, -signal.SIGTERM)
        rest = [json.loads(line) for line in process.stderr]
        assert rest[-1]["event"] == "stop"
        assert [line["documents"] for line in rest if line.get("path") == "/v2/rerank"][-1] == len(work["documents"])


def test_a_port_that_is_taken_is_named_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 6
    assert re.fullmatch(rf"blockrank: error: cannot listen on 127.0.0.1 port {port}: .*\n", capsys.readouterr().err)


def test_a_key_that_is_not_there_and_a_size_that_is_none_are_refused(capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert main(["serve", "--api-key-env", "NO_SUCH_KEY"]) == 2
    assert "NO_SUCH_KEY is empty" in capsys.readouterr().err
    assert main(["serve", "--api-key-env", "sk-123"]) == 2
    assert "sk-123" not in capsys.readouterr().err
    assert main(["serve", "--max-body", "many"]) == 2
    assert "max_body must be a number of bytes" in capsys.readouterr().err


def test_a_store_of_another_model_is_refused_before_anybody_asks(ranker, tmp_path, capsys):
    ranker.prepare_store(tmp_path / "states", DOCUMENTS)
    words = ["serve", "--port", "0", "--device", "cpu", "--dtype", "bfloat16", "--store", str(tmp_path / "states")]
    assert main(words) == 2
    assert str(tmp_path / "states") in capsys.readouterr().err


def test_limits_are_above_nothing_and_finite():
    with pytest.raises(ValueError, match="waiting must be above 0 and finite, got 0"):
        ServerLimits(waiting=0)
    with pytest.raises(ValueError, match="seconds must be above 0 and finite, got inf"):
        ServerLimits(seconds=float("inf"))


def test_without_the_extra_the_command_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in [name for name in sys.modules if name == "blockrank_rerank.serving.server"]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["serve"]) == 3
    assert "pip install '.[serve]'" in capsys.readouterr().err
