"""Every relative link and anchor in the documents resolves; README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_README_WORDS = 900
MAX_ANIMATION_BYTES = 3_000_000
DOCUMENTS = sorted(
    path
    for pattern in ('*.md', 'docs/**/*.md', 'src/**/*.md', 'tools/**/*.md', '.github/**/*.md')
    for path in ROOT.glob(pattern)
    if 'node_modules' not in path.parts
)
LINK = re.compile(r'!?\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)')


def strip_code(text: str) -> str:
    """Remove code blocks and code spans: brackets in them are no links."""
    text = re.sub(r'^(```|~~~).*?^\1', '', text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r'`[^`\n]*`', '', text)


def list_anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r'^(```|~~~).*?^\1', '', path.read_text(), flags=re.MULTILINE | re.DOTALL)
    anchors: set[str] = set()
    for heading in re.findall(r'^#{1,6} +(.+?) *#*$', text, re.MULTILINE):
        plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading).lower()
        slug = re.sub(r'[^\w\- ]', '', plain).replace(' ', '-')
        count = 0
        while (found := slug if not count else f'{slug}-{count}') in anchors:
            count += 1
        anchors.add(found)
    return anchors


def find_broken_links(path: Path) -> list[str]:
    """Return the relative links of a document that lead nowhere."""
    broken = []
    for target in LINK.findall(strip_code(path.read_text(encoding='utf-8'))):
        if re.match(r'[a-z][a-z0-9+.-]*:', target):
            continue
        name, _, anchor = target.partition('#')
        file = (path.parent / name).resolve() if name else path
        anchors_ok = not anchor or (file.suffix == '.md' and anchor in list_anchors(file))
        if not file.exists() or not anchors_ok:
            broken.append(target)
    return broken


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path):
    assert find_broken_links(path) == []


def test_broken_links_are_found(tmp_path):
    document = tmp_path / 'a.md'
    document.write_text(
        '# One heading\n[a](missing.md) [b](#one-heading) [c](#two) `[d](no.md)` '
        '[e](https://example.org/x) ![f](no.png)\n```\n[g](no.md)\n```\n'
    )
    assert find_broken_links(document) == ['missing.md', '#two', 'no.png']


def test_every_document_is_linked_from_another():
    linked = {
        (path.parent / target.partition('#')[0]).resolve()
        for path in DOCUMENTS
        for target in LINK.findall(strip_code(path.read_text(encoding='utf-8')))
        if not re.match(r'[a-z]+:', target)
    }
    pages = [path for path in DOCUMENTS if path.is_relative_to(ROOT / 'docs')]
    assert [str(path.relative_to(ROOT)) for path in pages if path not in linked] == []


def test_readme_is_short():
    words = (ROOT / 'README.md').read_text(encoding='utf-8').split()
    assert len(words) <= MAX_README_WORDS, f'README.md has {len(words)} words'


def test_animation_in_the_readme_is_small():
    animations = re.findall(
        r'\(([^()\s]+\.(?:gif|webp))\)', (ROOT / 'README.md').read_text(encoding='utf-8')
    )
    assert animations
    for name in animations:
        assert (ROOT / name).stat().st_size <= MAX_ANIMATION_BYTES, name
