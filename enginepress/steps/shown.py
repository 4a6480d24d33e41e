"""What a step leaves for people to look at in Kubeflow: a summary in Markdown, metrics, the report, and what it made.

What it made is an artifact of a few hundred bytes: where the thing lies, and in its metadata what it was made of, so that a
release leads back to its engine, and that to the checkpoint's revision. The thing itself stays in the workspace or store, and
never goes through Kubeflow's object store.

Nothing here decides anything: a step is done when this is written.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginepress.quantities import size_text
from enginepress.report import JSON_NAME, report_markdown
from enginepress.report.html import report_html
from enginepress.report.markdown import inline, table
from enginepress.steps.job import Job, Plan
from enginepress.steps.outstanding import channel_notes
from enginepress.steps.register import RECORD, newest_report, published_release
from enginepress.steps.report import Report
from enginepress.steps.verify import reports_key
from enginepress.stores.open import open_store

Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Shown:
    """What one step shows.

    Attributes:
        summary: Markdown.
        made: of what it made: where it lies and what it was made of, flat JSON values; empty if it made nothing.
        metrics: numbers by name.
        report: a page of HTML, or empty.
    """

    summary: str
    made: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: str = ""


def shown(step: str, job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    """What a step that is done shows. Reads the workspace's and the stores' small records."""
    return _SHOW[step](job, plan, facts)


def leave(step: str, job: Job, plan: Plan, facts: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Writes what a step shows into the outputs that its component has: `summary`, `metrics`, `report`, and under any other
    name what it made. Outputs have a `path` and `metadata`, as kfp's artifacts have.

    A step that is done does not fail because it could not be shown: what went wrong is printed.
    """
    try:
        found = shown(step, job, plan, facts)
        for name, output in outputs.items():
            _write(name, output, found)
    except Exception:
        print(f"{step} is done; it could not be shown:\n{traceback.format_exc()}", file=sys.stderr)


def _write(name: str, output: Any, found: Shown) -> None:
    if name == "metrics":
        output.metadata.update(found.metrics)
        return
    path = Path(output.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "summary":
        path.write_text(found.summary, encoding="utf-8", errors="backslashreplace")
    elif name == "report":
        path.write_text(found.report, encoding="utf-8", errors="backslashreplace")
    else:
        output.metadata.update(found.made)
        path.write_text(json.dumps(found.made, indent=1, sort_keys=True) + "\n", encoding="utf-8")


# Steps ----------------------------------------------------------------------------------------------------------------


def _resolve(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    recipe = job.recipe
    revision = job.workspace.read_json("revisions", f"{plan.revision}.json") or {"files": []}
    size = sum(f["size"] for f in revision["files"])
    done = f"release {plan.release} is there already; what is missing around it is added" if plan.release else "a new release"
    if plan.lost:
        done = f"a new release, since {plan.lost}"
    rows = [
        ("source", recipe.source.uri),
        ("revision", plan.revision_id),
        ("files", f"{len(revision['files'])}, {size_text(size)}"),
        ("builder", f"{recipe.engine.builder}, {recipe.engine.precision}"),
        *((f"with {name}", str(version)) for name, version in sorted(plan.inputs["environment"].items())),
        ("build key", plan.build_key),
        ("to do", done),
    ]
    return Shown(_summary(job, "resolve", facts, rows))


def _download(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    made = _checkpoint(job, plan)
    rows = [("source", made["source"]), ("revision", made["revision"]), ("lies in", made["where"])]
    if "bytes" in made:
        rows.append(("verified", f"{made['files']} files, {size_text(made['bytes'])}"))
    return Shown(_summary(job, "download", facts, rows), made, _measured(job, "download", made))


def _convert(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    return Shown(_summary(job, "convert", facts, [("lies in", str(facts.get("folder", "")))]))


def _build(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    made = _engine(job, plan)
    rows = [
        ("engine", f"{made['builder']}, {made['precision']}"),
        ("made from", f"{made['source']} at {made['revision']}"),
        *((f"with {name}", str(version)) for name, version in sorted(made["environment"].items())),
        ("lies in", made["where"]),
    ]
    if "bytes" in made:
        rows.append(("size", size_text(made["bytes"])))
    return Shown(_summary(job, "build", facts, rows), made, _measured(job, "build", made))


def _assemble(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    done = job.workspace.find("repositories", plan.build_key)
    files = [f["path"] for f in done.record["files"]] if done is not None else []
    models = sorted({path.partition("/")[0] for path in files})
    rows = [
        ("models", ", ".join(models)),
        ("files", str(len(files))),
        ("content digest", done.record["content_digest"] if done is not None else ""),
        ("lies in", str(done.folder) if done is not None else ""),
    ]
    return Shown(_summary(job, "assemble", facts, rows))


def _verify(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    report = _report(job, plan, facts)
    if report is None:
        nothing = "This release was gated before; its report was not kept."
        return Shown(
            _summary(job, "verify", facts, []), report=f"<!doctype html><title>{job.recipe.name}</title><p>{nothing}</p>"
        )
    data = report.to_json()
    return Shown(report_markdown(data), metrics=report.metrics(), report=report_html(data))


def _publish(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    made = _release(job, plan)
    rows = [
        ("release", str(made["release"])),
        ("stores", ", ".join(made["stores"])),
        ("lies in", made["where"]),
        ("size", size_text(made["bytes"])),
        ("made from", f"{made['source']} at {made['revision']}"),
        ("engine", made["engine_key"]),
        ("content digest", made["content_digest"]),
        ("can be served by", "; ".join(made["served_by"])),
    ]
    return Shown(_summary(job, "publish", facts, rows), made, {"release": float(made["release"]), "bytes": float(made["bytes"])})


def _register(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    store = open_store(job.recipe.stores[0])
    record = store.read_record(job.recipe.name, published_release(store, job.recipe.name, plan), RECORD) or {}
    rows = [
        ("registered model", job.recipe.name),
        ("version", str(record.get("model_version", ""))),
        ("MLflow", str(record.get("tracking_uri", ""))),
        ("run", str(record.get("run_id", ""))),
    ]
    return Shown(_summary(job, "register", facts, rows))


def _promote(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Shown:
    store = open_store(job.recipe.stores[0])
    at = sorted(store.channels(job.recipe.name).items())
    moved = ", ".join(facts.get("moved", ())) or "none"
    rows = [("release", str(facts["release"])), ("moved to it", moved), *((f"channel {c}", f"release {n}") for c, n in at)]
    released = Plan(**{**vars(plan), "release": int(facts["release"])})
    rows += [("note", note) for note in channel_notes(job.recipe, released)]
    return Shown(_summary(job, "promote", facts, rows))


_SHOW: dict[str, Callable[[Job, Plan, Mapping[str, Any]], Shown]] = {
    "resolve": _resolve,
    "download": _download,
    "convert": _convert,
    "build": _build,
    "assemble": _assemble,
    "verify": _verify,
    "publish": _publish,
    "register": _register,
    "promote": _promote,
}


# What was made --------------------------------------------------------------------------------------------------------


def _checkpoint(job: Job, plan: Plan) -> dict[str, Any]:
    """A release that is there already needs no checkpoint: then it is told where it came from, and no place."""
    made: dict[str, Any] = {
        "what": "checkpoint",
        "source": job.recipe.source.uri,
        "revision": plan.revision_id,
        "revision_digest": plan.revision,
        "where": "",
    }
    done = job.workspace.find("checkpoints", plan.revision)
    if done is not None:
        made |= {"where": str(done.folder), "bytes": done.record["bytes"], "files": len(done.record["files"])}
    return made


def _engine(job: Job, plan: Plan) -> dict[str, Any]:
    made: dict[str, Any] = {
        "what": "engine",
        "builder": job.recipe.engine.builder,
        "precision": job.recipe.engine.precision,
        "engine_key": plan.engine_key,
        "environment": dict(plan.inputs["environment"]),
        "source": job.recipe.source.uri,
        "revision": plan.revision_id,
        "revision_digest": plan.revision,
        "where": "",
    }
    done = job.workspace.find("engines", plan.engine_key)
    if done is not None:
        made |= {"where": str(done.folder), "bytes": done.record["bytes"]}
        made |= {key: done.record[key] for key in ("image", "image_digest", "driver", "sm") if done.record.get(key)}
    return made


def _release(job: Job, plan: Plan) -> dict[str, Any]:
    store = open_store(job.recipe.stores[0])
    number = published_release(store, job.recipe.name, plan)
    manifest = store.manifest(job.recipe.name, number)
    return {
        "what": "release",
        "model": manifest.model,
        "release": manifest.release,
        "where": store.location(manifest.model, manifest.release),
        "stores": [s.url for s in job.recipe.stores],
        "bytes": manifest.size,
        "manifest_digest": manifest.digest,
        "content_digest": manifest.content_digest,
        "build_key": manifest.build_key,
        "engine_key": plan.engine_key,
        "source": manifest.made_from["source"],
        "revision": manifest.made_from["revision"],
        "revision_digest": manifest.made_from["revision_digest"],
        "served_by": list(manifest.served_by),
    }


def _report(job: Job, plan: Plan, facts: Mapping[str, Any]) -> Report | None:
    """The report of the gate that these facts are of; of one that was passed before, what is kept of it."""
    if facts.get("folder"):
        return Report.from_json(json.loads((Path(facts["folder"]) / JSON_NAME).read_text()))
    attempts = sorted(job.workspace.path("reports", reports_key(plan)).glob("[0-9]*"), key=lambda p: int(p.name))
    if attempts:
        return Report.from_json(json.loads((attempts[-1] / JSON_NAME).read_text()))
    return newest_report(open_store(job.recipe.stores[0]), job.recipe.name, plan.release) if plan.release else None


# Words ----------------------------------------------------------------------------------------------------------------


def _summary(job: Job, step: str, facts: Mapping[str, Any], rows: Rows) -> str:
    lines = [f"# {inline(job.recipe.name)}: {step}", ""]
    if facts.get("skipped"):
        lines += [f"Nothing to do: {inline(facts['skipped'])}.", ""]
    record = job.workspace.read_json("runs", job.run, f"{step}.json") or {}
    if record.get("seconds"):
        rows = [*rows, ("seconds", f"{record['seconds']:.1f}")]
    lines += table(("", ""), [(name, value) for name, value in rows if value], code=1)
    return "\n".join(lines).rstrip() + "\n"


def _measured(job: Job, step: str, made: Mapping[str, Any]) -> dict[str, float]:
    record = job.workspace.read_json("runs", job.run, f"{step}.json") or {}
    found = {"seconds": float(record.get("seconds", 0.0))}
    return {**found, "bytes": float(made["bytes"])} if "bytes" in made else found
