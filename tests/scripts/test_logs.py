"""Log lines that stay lines."""

import logging

from scripts import logs
from scripts.files import escaped


def test_a_name_forges_no_line_and_steers_no_terminal(caplog):
    name = "x\nERROR forged\x1b[2J\u202e\x9b1m"
    logging.getLogger("scripts.anything").warning("%s: damaged (%d)", name, 3)
    logging.getLogger("custom_transforms.dicom").warning("%s", name)
    assert [record.getMessage() for record in caplog.records] == [
        "x\\nERROR forged\\x1b[2J\\u202e\\x9b1m: damaged (3)", "x\\nERROR forged\\x1b[2J\\u202e\\x9b1m"
    ]  # fmt: skip


def test_other_loggers_and_other_letters_stay_as_they_are(caplog):
    logging.getLogger("somebody.else").warning("%s\nsecond line", "first")
    assert caplog.records[0].getMessage() == "first\nsecond line"
    assert escaped("Ärztin 患者 100 % \\n") == "Ärztin 患者 100 % \\n"


def test_it_is_set_once(monkeypatch):
    before = logging.getLogRecordFactory()
    logs.keep_lines_whole()
    assert logging.getLogRecordFactory() is before


def test_what_a_message_itself_says_stays(caplog):
    with caplog.at_level(logging.INFO, logger="scripts"):
        logging.getLogger("scripts.x").info("\n%d/%d %s %.1f %r", 1, 2, "step\n", 0.25, None)
    assert caplog.records[0].getMessage() == "\n1/2 step\\n 0.2 'None'"
