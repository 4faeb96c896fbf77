"""What comes from data is text in every page and card."""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from mmclr.display.html import FOLDER, code, markdown, render, to_json
from mmclr.export import card
from mmclr.export.commands.transformers import FORMAT
from mmclr.models.config import ImageConfig

HOSTILE = (
    "<script>XSS</script>", '"><img src=x onerror=XSS>', "</style><script>XSS</script>", "<!--XSS", "{{XSS}}",
    "{%XSS%}",    "`</code><script>XSS</script>`", "a|b", "a\n\n# XSS", "```\nXSS", "---\nXSS: 1\n---", "\u202eXSS",
    "\u2028", "&lt;b", "[x](javascript:XSS)", "__proto__", "",
)  # fmt: skip
texts = st.text(max_size=30) | st.sampled_from(HOSTILE)


def elements(html):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, sorted(k for k, _ in attrs)))
    parser.handle_comment = found.append
    parser.feed(html)
    parser.close()
    return found


@given(texts)
def test_a_template_has_the_same_elements_whatever_is_put_in(text):
    def filled(value):
        cells = [[{"text": value, "value": None}]]
        page = render(
            "report.html",
            title=value,
            subtitle=value or "x",
            sections=[(value or "x", value)],
            made=value,
            style=Markup(""),
            script=Markup(""),
            policy="x",
        )
        return page + render("table.html", columns=[value], numeric=[False], rows=cells)

    assert elements(filled(text)) == elements(filled("plain"))


@given(texts)
def test_json_ends_no_script_and_stays_json(text):
    shown = to_json({"a": [text]})
    assert not set("<>&\u2028\u2029") & set(shown)
    if "://" not in text and "=" not in text:
        assert json.loads(shown) == {"a": [text]}


@given(texts)
def test_markdown_has_no_element_and_no_other_cell(text):
    cell = markdown(text)
    assert not elements(cell)
    assert "\n" not in cell
    assert cell.replace("\\\\", "").replace("\\|", "").count("|") == 0
    assert not set("<>`\n") & set(code(text))


@given(texts, texts)
def test_the_head_of_a_card_is_one_yaml_document(name, dataset):
    result = {"dataset": dataset, "task": name, "metrics": {name: 0.5}}
    source = SimpleNamespace(model=SimpleNamespace(config=SimpleNamespace(image=ImageConfig())))
    head = card._head(FORMAT, name, source, card.About(license=name), [result])
    text = yaml.safe_dump(head, sort_keys=False)
    assert yaml.safe_load(text) == head
    assert "\n---" not in text
    assert not elements(text)
    assert not elements(card._table([result]))
    assert card._table([result]).count("\n") == 2


@pytest.mark.parametrize("metrics", [{"a": "<b>"}, {"a": [1]}, [1], "x", {"a": {}}])
def test_metrics_that_are_no_numbers_are_refused(metrics, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"dataset": "d", "task": "t", "metrics": metrics}))
    with pytest.raises(card.UserError, match="not a result"):
        card._result(tmp_path / "r.json")


def test_templates_mark_nothing_as_safe():
    for path in FOLDER.iterdir():
        assert "safe" not in path.read_text("utf-8").replace("unsafe-inline", ""), path
