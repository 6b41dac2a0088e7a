"""Reads OSCAL assessment results with compliance-trestle, which has the models of NIST.

oscal.py FILE.json...
"""

import argparse
import json
import pathlib
import sys
import tempfile

from trestle.common import const
from trestle.common.err import TrestleError
from trestle.core.oscal_backward_compatibility import check_file
from trestle.core.validator_factory import validator_factory
from trestle.oscal import OSCAL_VERSION
from trestle.oscal.assessment_results import AssessmentResults

assert OSCAL_VERSION == "1.2.1", OSCAL_VERSION


def valid(file, folder):
    """The results in a file, once every validator of trestle has taken them."""
    assert not check_file(file), file
    results = AssessmentResults.oscal_read(file)
    assert results is not None, file
    every = validator_factory.get(argparse.Namespace(mode=const.VAL_MODE_ALL))
    assert every.model_is_valid(results, False, folder), file
    return results


def linked(results):
    """Every reference within the document leads somewhere."""
    resources = {f"#{resource.uuid}" for resource in results.back_matter.resources}
    links = {results.import_ap.href}
    for result in results.results:
        seen = {observation.uuid for observation in result.observations}
        for observation in result.observations:
            links |= {evidence.href for evidence in observation.relevant_evidence or []}
        for finding in result.findings or []:
            assert {related.observation_uuid for related in finding.related_observations} <= seen
    assert links <= resources, links - resources


def refused(document, folder):
    """Whether trestle says no to a document."""
    file = folder / "changed.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    try:
        valid(file, folder)
    except (AssertionError, TrestleError):
        return True
    return False


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for file in map(pathlib.Path, sys.argv[1:]):
            linked(valid(file, folder))
            print(f"valid: {file.name}")
        # It is not one that takes everything.
        text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
        assert not refused(json.loads(text), folder)
        for change in (
            lambda it: it.pop("import-ap"),
            lambda it: it["metadata"]["props"][0].update(name="two words"),
            lambda it: it["metadata"]["props"][0].update(value="two\nlines"),
            lambda it: it["results"][0]["observations"][0].pop("methods"),
            lambda it: it["results"][0].update(uuid=it["results"][0]["observations"][0]["uuid"]),
        ):
            document = json.loads(text)
            change(document["assessment-results"])
            assert refused(document, folder), change


main()
