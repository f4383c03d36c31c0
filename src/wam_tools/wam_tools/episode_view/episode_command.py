"""Show an episode to people who have neither ROS nor the robot.

`view` writes one HTML page with videos of the cameras, states, joint plots, events and, if they
were recorded, the predicted images. It can be sent, read offline and opened in any browser. Bags
of others are shown as far as their topics allow.

Exit status: 0 success, 1 a bag could not be read, 2 invalid arguments.
"""

import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from wam_policy.command_line import CommandParser
from wam_policy.recording import bag_command
from wam_tools.episode_view.episode_reader import read_episode
from wam_tools.episode_view.page_writer import make_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a page per bag and return the exit status."""
    parser = CommandParser('./wam episode', __doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    text = 'write one HTML page per episode, readable offline'
    view = commands.add_parser('view', help=text, description=text)
    view.add_argument(
        'bags', nargs='+', type=Path, metavar='BAG', help='a bag, or a folder of bags'
    )
    view.add_argument(
        '-o',
        '--output-dir',
        type=Path,
        default=Path(),
        metavar='DIR',
        help='folder of the pages, NAME.html each (default: the current one)',
    )
    view.add_argument('--open', action='store_true', help='open the pages in the browser')
    options = parser.parse_args(arguments)

    def show(bag: Path) -> str:
        path = write_page(bag, options.output_dir)
        if options.open:
            webbrowser.open(path.resolve().as_uri())
        return f'{path}: {path.stat().st_size / 1e6:.1f} MB'

    return bag_command.act_on_bags(options.bags, show)


def write_page(bag: Path, output_dir: Path) -> Path:
    """Write the page of one bag and return its path; raise ValueError with the reason if not."""
    episode = read_episode(bag)
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / f'{episode.name}.html'
    path.write_text(make_page(episode), encoding='utf-8')
    return path


if __name__ == '__main__':
    sys.exit(main())
