"""Examples that the help of a verb shows; a test holds that each names an existing verb with existing flags."""

#: Command lines by verb, each of at most 78 characters.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "help": ("batchrun help job-files", "batchrun help retry"),
    "init": (
        "batchrun init products.csv --task you~your-task",
        "batchrun init products.csv --actor apify/hello-world --out shop.toml",
        "batchrun init products.csv --task you~your-task --map startUrls=link",
    ),
    "run": (
        "batchrun run shop.toml",
        "batchrun run shop.toml --limit 10 --budget-usd 1.50",
        "batchrun run --task you~your-task --jobs inputs.jsonl",
        "batchrun run --actors ./my-actor --jobs inputs.jsonl",
    ),
    "plan": ("batchrun plan shop.toml", "batchrun plan shop.toml --show 3"),
    "notify": ("batchrun notify shop.toml --test",),
    "status": ("batchrun status shop.out", "batchrun status shop.out --json", "batchrun status s3://bucket/shop"),
    "failures": ("batchrun failures shop.out",),
    "report": ("batchrun report shop.out", "batchrun report shop.out --out shop.html"),
    "export": ("batchrun export shop.out shop.xlsx", "batchrun export shop.out items.csv --items"),
    "retry": (
        "batchrun retry shop.out --dry-run",
        "batchrun retry shop.out --failure 4a85b438",
        "batchrun retry shop.out --outcome failed,timed_out --group de",
    ),
    "cost": ("batchrun cost shop.out --by group,day,outcome", "batchrun cost shop.out --csv"),
    "abort": ("batchrun abort shop.out",),
    "resolve": ("batchrun resolve shop.out", "batchrun resolve shop.out --key a1 --none"),
    "repair": ("batchrun repair shop.out",),
    "audit": ("batchrun audit shop.out", "batchrun audit s3://your-bucket/batches/shop"),
    "pull": ("batchrun pull s3://your-bucket/batches/shop shop.out",),
    "schema": ("batchrun schema > batchrun.schema.json",),
    "serve": ("batchrun serve --port 3333 --actors ./my-actors", "batchrun serve --faults configs/faults.toml"),
    "actors new": ("batchrun actors new my-actor --lang js",),
    "actors install": ("batchrun actors install ./my-actors",),
    "task create": ("batchrun task create --actor apify/hello-world --name hello",),
    "task get": ("batchrun task get --task you~your-task",),
    "task run": ("batchrun task run --task you~your-task --input @input.json --sync",),
    "worker start": ("batchrun worker start --data worker --api-url embedded",),
    "worker submit": (
        "batchrun worker submit shop.toml --wait",
        "batchrun worker submit --profile shop --jobs products.csv",
        "batchrun worker submit shop.toml --plan",
    ),
    "worker plan": ("batchrun worker plan shop.toml --show 1",),
    "worker list": ("batchrun worker list --state active,paused",),
    "worker page": ("batchrun worker page", "batchrun worker page --data /var/lib/batchrun"),
    "worker status": ("batchrun worker status", "batchrun worker status shop"),
    "worker logs": ("batchrun worker logs shop --follow",),
    "worker records": ("batchrun worker records shop > records.jsonl",),
    "worker items": ("batchrun worker items shop --follow",),
    "worker failures": ("batchrun worker failures shop",),
    "worker retry": ("batchrun worker retry shop --dry-run", "batchrun worker retry shop --outcome timed_out --wait"),
    "worker resolve": ("batchrun worker resolve shop", "batchrun worker resolve shop --key sku-17 --none"),
    "worker repair": ("batchrun worker repair shop",),
    "worker cost": ("batchrun worker cost shop --by group,day",),
    "worker report": ("batchrun worker report shop --out shop.html",),
    "worker pause": ("batchrun worker pause shop",),
    "worker resume": ("batchrun worker resume shop",),
    "worker cancel": ("batchrun worker cancel shop",),
    "worker limits": ("batchrun worker limits --set max_concurrent_runs=50", "batchrun worker limits shop"),
    "worker notify": ("batchrun worker notify --test",),
    "worker delete": ("batchrun worker delete shop",),
}


def epilog(verb: str) -> str | None:
    """Return the examples of a verb as the last lines of its help; None: it has none."""
    found = EXAMPLES.get(verb, ())
    # Typer joins the lines of a paragraph, except after a backspace.
    return "\n".join(("\bExamples:", *(f"  {each}" for each in found))) if found else None
