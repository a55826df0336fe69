"""What `make lint` type-checks: everything that is installed as ganbench, the zoo included."""

from pathlib import Path

from mypy.main import process_options

ROOT = Path(__file__).parent.parent


def test_mypy_looks_at_every_file_of_the_bench_and_of_the_zoo(monkeypatch):
    """The zoo lies beside ganbench/ and is imported as ganbench.models; the link ganbench/models shows it to mypy."""
    monkeypatch.chdir(ROOT)
    sources, _ = process_options([])
    checked = {Path(source.path).resolve() for source in sources if source.path is not None}
    written = {file.resolve() for folder in ("ganbench", "models") for file in (ROOT / folder).rglob("*.py")}
    assert written == checked
    assert len(checked) >= 165
