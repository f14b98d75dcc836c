"""Whether an address answers: ``python -m shop.probe URL``. The image has no curl."""

import sys
from urllib.request import urlopen

if __name__ == "__main__":
    with urlopen(sys.argv[1], timeout=2) as answer:
        sys.exit(answer.status != 200)
