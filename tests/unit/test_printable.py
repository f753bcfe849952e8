"""Text from others, made fit for terminals, XML and reports."""

import xml.etree.ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import __main__
from harness.cli import common
from harness.errors import RunFailed
from harness.printable import printable
from tests.unit.ansible_modules import action, on_this_machine


def test_escapes_go_and_letters_stay() -> None:
    assert printable("\x1b[1;31mred\x1b[0m ä – \t\n\x1b]0;title\x07 end") == "red ä – \t\n end"
    assert printable("a\0b\x9bc\u202ed") == "a\ufffdb\ufffdc\ufffdd"
    assert printable({"a\x07": ("\x1b[2J", [1, None, 2.5])}) == {"a\ufffd": ("", [1, None, 2.5])}


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_is_well_formed_xml_and_stays_as_it_is_the_second_time(text: str) -> None:
    clean = printable(text)
    element = Xml.Element("failure", message=clean)
    assert Xml.fromstring(Xml.tostring(element, encoding="utf-8")).tag == "failure"
    assert "\x1b" not in clean and printable(clean) == clean


def test_what_the_command_prints_for_people_has_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    common.say("\x1b[31mred\x07")
    common.show({"line": "\x1b"}, as_json=False, text="a\x1b[0m\x00")
    assert __main__._report("engine: \x1b[31mred", 4) == 4
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("a\ufffd\n", "red\ufffd\nharness: engine: red\n")


def test_a_task_that_fails_shows_no_control_characters() -> None:
    plugin = action("mlperf_run_info", {"root": "/srv/mlperf"}, check=False, execute=on_this_machine)

    def fail(arguments: object) -> None:
        raise RunFailed("engine: \x1b[31mred\x00")

    plugin.work = fail
    assert plugin.run(task_vars={})["msg"] == "engine: red\ufffd"
