"""Validates SARIF logs: sarif.py SCHEMA LOG...; says what is wrong, and ends with 1 if anything is."""

import json
import sys

import jsonschema

schema, *logs = sys.argv[1:]
with open(schema, encoding="utf-8") as file:
    validator = jsonschema.Draft7Validator(
        json.load(file), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )
wrong = 0
for log in logs:
    with open(log, encoding="utf-8") as file:
        for error in validator.iter_errors(json.load(file)):
            print(f"{log}: {error.json_path}: {error.message}")
            wrong += 1
sys.exit(1 if wrong else 0)
