"""Write the JSON Schemas of the format: `make schema`."""

from pathlib import Path

from exemplar_partitioning.files import to_json
from exemplar_partitioning.folder import annotation as folder
from exemplar_partitioning.folder import schema as records

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCHEMAS = {"config": records.json_schema, "annotation": folder.json_schema}

if __name__ == "__main__":
    for name, schema in SCHEMAS.items():
        (DOCS / f"{name}.schema.json").write_bytes(to_json(schema()))
