"""Replace the checkpoint of a running worker, from inside its container: `python3 -m proscale.worker_swap /checkpoints/NAME`.

Triton loads the new model beside the old one and then lets it take over, so that no request fails; gateways notice by the next answer.
When the new one cannot be loaded, the old one goes on. Standard library only: the container has nothing else that speaks to Triton, and
nobody outside of it may (docs/deploy.md).
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

_LOAD_SECONDS = 900.0


def swap(url: str, model: str, checkpoint: str) -> None:
    """Load `checkpoint` in place of what is served.

    Args:
        url: of Triton's HTTP service.
        checkpoint: a model folder as the worker sees it; empty: what its environment names.

    Raises:
        OSError: Triton does not answer, or refuses; the text of an HTTPError's body says why.
    """
    config = _call(f"{url}/v2/models/{model}/config")
    parameters = {**config.get("parameters", {}), "checkpoint": {"string_value": checkpoint}}
    # Its own number, so that going back to a checkpoint that was served before is a change, too.
    swaps = int(parameters.get("swap", {}).get("string_value") or 0) + 1
    config["parameters"] = {**parameters, "swap": {"string_value": str(swaps)}}
    _call(f"{url}/v2/repository/models/{model}/load", {"parameters": {"config": json.dumps(config)}})


def main() -> None:
    """Exit with 0 when the new model serves, with 1 and the reason when the old one goes on."""
    parser = argparse.ArgumentParser(prog="python3 -m proscale.worker_swap", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="model folder as the worker sees it; '': the one in PROSCALE_CHECKPOINT")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of Triton's HTTP service (default: %(default)s)")
    parser.add_argument("--model", default="proscale", help="name of the model (default: %(default)s)")
    given = parser.parse_args()
    try:
        swap(given.url, given.model, given.checkpoint)
    except urllib.error.HTTPError as error:
        sys.exit(f"not swapped, the old model goes on: {_reason(error)}")
    except OSError as error:
        sys.exit(f"not swapped: Triton does not answer at {given.url}: {error}")
    print(f"{given.checkpoint or 'the checkpoint of the environment'} is served")


def _call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=_LOAD_SECONDS) as response:
        text = response.read()
    answer: dict[str, Any] = json.loads(text) if text else {}
    return answer


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]).partition("\n")[0]
    except (ValueError, KeyError, TypeError):
        return text


if __name__ == "__main__":
    main()
