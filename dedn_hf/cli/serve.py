"""dedn serve: a model behind a web server."""

from __future__ import annotations

import argparse
from typing import Any


def add_serve(commands: argparse._SubParsersAction) -> None:
    """dedn serve: a model behind a web server."""
    parser = commands.add_parser(
        "serve",
        help="answer requests with a saved model, as an Inference Endpoint does",
        description='Answers POST / of {"inputs": base64 image, "parameters": {"candidate_labels": [...]}} and GET '
        "/health. The image may also be the body of the request, or a file in a form (multipart/form-data). The code "
        "beside the weights is not run.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a saved model, or its Hub id")
    parser.add_argument("--host", metavar="ADDRESS", help="to listen on (default 127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, metavar="N", help="(default 8080)")
    parser.add_argument("--allow-urls", action="store_true", help="also fetch images from public http(s) addresses")
    parser.add_argument(
        "--max-bytes", type=int, metavar="N", help="size limit of a request (default 10485760, which is 10 MB)"
    )
    parser.add_argument("--max-pixels", type=int, metavar="N", help="size limit of an image (default 40000000)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="until a request is given up (default 30)")
    parser.add_argument(
        "--queue", type=int, metavar="N", help="requests that may wait or be in work at once (default 32)"
    )
    parser.set_defaults(run=run_serve)


def run_serve(model: str, allow_urls: bool, **given: Any) -> None:
    """Serve until interrupted. Raises as `dedn_hf.publish.serving.serve`."""
    from dedn_hf.publish.extras import require_extra

    require_extra("serve")
    from dedn_hf.publish.serving import serve

    serve(model, allow_urls=allow_urls, **given)
