"""Write the JSON Schemas of the format: `make schema`."""

from pathlib import Path

from exemplar_partitioning import records, store
from exemplar_partitioning.annotation import folder

SCHEMAS = {"config": records.json_schema, "annotation": folder.json_schema}

if __name__ == "__main__":
    for name, schema in SCHEMAS.items():
        Path(__file__).with_name(f"{name}.schema.json").write_bytes(store.to_json(schema()))
