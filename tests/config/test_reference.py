"""docs/config.md says what the types say."""

from pathlib import Path

from pydantic import Field

from tst_titan.config.reference import everything, reference
from tst_titan.config.schema import Fraction, PositiveInt, Strict


def test_the_document_is_what_the_types_give():
    document = (Path(__file__).parents[2] / "docs/config.md").read_text(encoding="utf8")
    assert document == everything(), "run python -m tst_titan.config.reference docs/config.md"


def test_a_key_with_type_bounds_default_and_description():
    class Inner(Strict):
        """What is inside. More."""

        share: Fraction = Field(0.5, description="of all | of nothing")

    class Outer(Strict):
        """What is outside."""

        count: PositiveInt | None = None
        inner: dict[str, Inner] = Field({})
        names: tuple[str, ...]

    text = reference({"A file": Outer})
    assert "| `count` | whole number > 0 | `null` |  |" in text
    assert "| `inner` | mapping of names to [Inner](#inner) | `{}` |  |" in text
    assert "| `names` | list of text |  |  |" in text
    assert "### Inner\n\nWhat is inside. More.\n" in text
    assert r"| `share` | number > 0 ≤ 1 | `0.5` | of all \| of nothing |" in text
