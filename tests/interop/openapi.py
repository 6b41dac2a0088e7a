"""Holds the OpenAPI document against the specification, and answers against the document.

openapi.py openapi.json FOLDER, where FOLDER has an answer SCHEMA.json for each schema.
"""

import json
import pathlib
import sys

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

file, folder = sys.argv[1:]
document = json.load(open(file, encoding="utf-8"))
validate(document)

# A validator that takes anything would prove nothing.
broken = json.loads(json.dumps(document))
broken["paths"]["/v1/audit/search"]["get"].pop("responses")
broken["paths"]["/v1/audit/search"]["get"]["parameters"][0]["in"] = "nowhere"
assert list(OpenAPIV31SpecValidator(broken).iter_errors())

ids = [o["operationId"] for path in document["paths"].values() for o in path.values()]
assert len(ids) == len(set(ids)) and len(ids) >= 10, ids

read = 0
for answer in pathlib.Path(folder).glob("*.json"):
    schema = {"$ref": f"#/components/schemas/{answer.stem}", "components": document["components"]}
    check = jsonschema.Draft202012Validator(schema)
    assert list(check.iter_errors({"nothing": "of the kind"})), answer.stem
    for mistake in check.iter_errors(json.load(open(answer, encoding="utf-8"))):
        sys.exit(f"{answer.stem}: {list(mistake.path)}: {mistake.message}")
    read += 1
assert read == 7, read
