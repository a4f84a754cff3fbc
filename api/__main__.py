"""`python -m api`: the service in this process."""

from __future__ import annotations

import argparse
import sys

from api.access import check_binding
from api.app import create_app
from api.server import serve
from labeler.errors import LabelerError
from labeler.logs import log_as_json


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m api", description="The REST service; settings come from the environment."
    )
    parser.add_argument("--host", default="127.0.0.1", help="The address to listen on.")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args(words)
    log_as_json()
    try:
        app = create_app()
        check_binding(app.state.store, asked.host)
    except LabelerError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    serve(app, asked.host, asked.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
