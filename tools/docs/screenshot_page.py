"""Take a picture of an HTML page for the documents, with headless Chromium.

`.venv/bin/python tools/docs/screenshot_page.py PAGE OUT.webp [--size 1400x1000] [--fragment t=9]`

The page's fragment chooses what it shows: `t` seconds and `theme` of an episode's page. Needs
Chromium (`apt install chromium`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--use-gl=angle',
    '--use-angle=swiftshader',
    '--enable-unsafe-swiftshader',
    '--hide-scrollbars',
    '--virtual-time-budget=9000',
)
TIMEOUT_S, QUALITY = 90, 82
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('page', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--size', default='1400x1000', help='of the window, pixels')
    parser.add_argument('--fragment', default='theme=light', help='after the # of the address')
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print('Chromium is not installed: sudo apt install chromium', file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, 'page.png')
        subprocess.run(
            [
                browser,
                *FLAGS,
                f'--user-data-dir={folder}',
                f'--window-size={options.size.replace("x", ",")}',
                f'--screenshot={picture}',
                f'{options.page.resolve().as_uri()}#{options.fragment}',
            ],
            timeout=TIMEOUT_S,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        pixels = cv2.imread(str(picture))
    if pixels is None or not cv2.imwrite(
        str(options.out), pixels, [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    ):
        print(f'{options.out}: could not be written', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
