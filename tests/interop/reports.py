"""Opens the files of a report with other people's programs: openpyxl, and Poppler's pdftotext.

reports.py FILE.xlsx FILE.pdf FILE.json
"""

import datetime
import json
import subprocess
import sys

import openpyxl

workbook, paper, report = sys.argv[1:]
report = json.load(open(report, encoding="utf-8"))

book = openpyxl.load_workbook(workbook)
assert len(book.sheetnames) == len(report["sections"]) + 1, book.sheetnames
facts = {row[0]: row[1] for row in book["Provenance"].iter_rows(values_only=True) if row[0]}
assert facts["checkpoint root"] == report["header"]["checkpoint"]["root"], facts
for section, name in zip(report["sections"], book.sheetnames[1:]):
    if not section["table"] or not section["table"]["rows"]:
        continue
    sheet = book[name]
    head = sheet.freeze_panes
    at = sheet[head].row - 1
    columns = section["table"]["columns"]
    assert [c.value for c in sheet[at]][: len(columns)] == [c["name"] for c in columns]
    assert sheet.auto_filter.ref, name
    for row, cells in enumerate(section["table"]["rows"], start=at + 1):
        for column, (kind, text) in enumerate(zip(columns, cells), start=1):
            cell = sheet.cell(row=row, column=column)
            assert cell.data_type != "f", (name, cell)
            if kind["kind"] == "number" and text:
                assert cell.value == int(text), (name, cell.value, text)
            elif kind["kind"] == "time" and text:
                assert isinstance(cell.value, datetime.datetime), (name, cell.value)
                assert str(cell.value)[:19] == text[:19].replace("T", " "), (cell.value, text)

text = subprocess.run(["pdftotext", "-layout", paper, "-"], check=True, capture_output=True, text=True).stdout
assert report["title"] in text and report["header"]["checkpoint"]["root"] in text
pages = text.count("\f")
assert f"page 1 of {pages}" in text and f"page {pages} of {pages}" in text, pages
for section in report["sections"]:
    assert section["title"][:20] in text, section["title"]
