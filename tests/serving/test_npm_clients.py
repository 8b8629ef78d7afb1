"""Clients from npm, as they are installed, get the ranking over loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("cohere", reason="needs the test-serve extra")  # they take as long as these clients

from blockrank_rerank.serving.app import create_app
from tests.serving.conftest import DOCUMENTS, QUERY, on_loopback

BEST = 2
CLIENTS = Path(__file__).parent / "npm"


@pytest.fixture(scope="module")
def npm_clients(tmp_path_factory):
    """The folder of the clients, installed; nothing is written to the checkout."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm")
    folder = shutil.copytree(CLIENTS, tmp_path_factory.mktemp("npm") / "clients")
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry did not answer within 10 minutes")
    if done.returncode:
        pytest.skip(f"needs the npm registry: {done.stderr.strip()[:200]}")
    return folder


@pytest.fixture(scope="module")
def found(npm_clients, ranker):
    with on_loopback(create_app(ranker, api_key="key")) as address:
        command = ["node", "clients.mjs", address, QUERY, str(BEST), *DOCUMENTS]
        done = subprocess.run(command, cwd=npm_clients, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("client", ["vercel", "cohere_v2", "cohere_v1"])
def test_a_client_gets_the_best_documents_with_their_probabilities(client, found, ranker):
    expected = [(document.index, document.probability) for document in ranker.rank(QUERY, DOCUMENTS)[:BEST]]
    assert [index for index, _ in found[client]] == [index for index, _ in expected]
    assert [score for _, score in found[client]] == pytest.approx([score for _, score in expected], abs=1e-5)
