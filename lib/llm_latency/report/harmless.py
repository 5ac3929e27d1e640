"""HTML without what could do harm: scripts, addresses, signs that are not seen.

Names of models, reasons and logs come from outside. What is not on a short list of tags and
attributes goes, whatever it is; of pictures only those stay that lie in the page itself.
"""

from __future__ import annotations

import re

from nbconvert.preprocessors.sanitize import SanitizeHTML

from llm_latency.words import visible

TAGS = [
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "div", "span", "br", "hr", "blockquote", "pre"),
    *("a", "abbr", "b", "code", "del", "em", "i", "kbd", "s", "small", "strong", "sub", "sup", "u"),
    *("ul", "ol", "li", "dl", "dt", "dd", "img", "figure", "figcaption"),
    *("table", "caption", "colgroup", "col", "thead", "tbody", "tfoot", "tr", "th", "td"),
]
ATTRIBUTES = {"class", "id", "title", "alt", "width", "height", "colspan", "rowspan", "scope"}
PICTURE = re.compile(r'src="(data:image/(?:png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=\s]*)"')


def harmless(body: str) -> str:
    """Take everything out of HTML that is not on the list; pictures are the file's own.

    Parameters
    ----------
    body
        HTML that holds text from outside.
    """
    pictures: list[str] = []

    def set_aside(found: re.Match[str]) -> str:
        pictures.append(found[1])
        return f'src="picture-{len(pictures) - 1}"'

    # What is not seen is written out: NUL ends a text in some readers, and others turn it round.
    body = visible(PICTURE.sub(set_aside, body))
    body = re.sub(r"(?is)<(script|style)\b.*?(</\1\s*>|\Z)", "", body)
    cleaner = SanitizeHTML(  # type: ignore[no-untyped-call]
        tags=TAGS, attributes=_allowed, strip=True
    )
    clean: str = cleaner.sanitize_html_tags(body)  # type: ignore[no-untyped-call]
    clean = re.sub(r"<img(?![^>]*\ssrc=)[^>]*>", "", clean)
    return re.sub(
        r'src="picture-(\d+)"',
        lambda found: f'src="{pictures[int(found[1])]}"' if int(found[1]) < len(pictures) else "",
        clean,
    )


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "src":
        return tag == "img" and re.fullmatch(r"picture-\d+", value) is not None
    return name in ATTRIBUTES
