"""The files of a new Actor: small, working, and fit for `apify push`. No I/O."""

LANGUAGES = ("python", "js")

_DEFINITION = """{
    "actorSpecification": 1,
    "name": "NAME",
    "version": "0.1",
    "input": "./input_schema.json",
    "dockerfile": "../Dockerfile"
}
"""
_INPUT_SCHEMA = """{
    "title": "Input of NAME",
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "name": {
            "title": "Name",
            "type": "string",
            "description": "Who is greeted.",
            "editor": "textfield",
            "default": "world"
        }
    }
}
"""
_COMMON = {
    ".actor/actor.json": _DEFINITION,
    ".actor/input_schema.json": _INPUT_SCHEMA,
    "example.jsonl": '{"name": "Ada"}\n{"name": "Grace"}\n',
    ".gitignore": ".venv/\n__pycache__/\nnode_modules/\nstorage/\n",
}
_PYTHON = {
    "requirements.txt": "apify>=3,<5\n",
    "src/__init__.py": "",
    "src/__main__.py": """import asyncio

from apify import Actor


async def main() -> None:
    async with Actor:
        given = await Actor.get_input() or {}
        await Actor.push_data({"greeting": f"Hello, {given['name']}!"})


asyncio.run(main())
""",
    "Dockerfile": """FROM apify/actor-python:3.13
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY . ./
CMD ["python", "-m", "src"]
""",
}
_JS = {
    "package.json": """{
    "name": "NAME",
    "version": "0.1.0",
    "type": "module",
    "scripts": { "start": "node src/main.js" },
    "dependencies": { "apify": "^3.4.0" }
}
""",
    "src/main.js": """import { Actor } from 'apify';

await Actor.init();
const given = await Actor.getInput() ?? {};
await Actor.pushData({ greeting: `Hello, ${given.name}!` });
await Actor.exit();
""",
    "Dockerfile": """FROM apify/actor-node:22
COPY package*.json ./
RUN npm install --omit=dev
COPY . ./
CMD ["npm", "start"]
""",
}


def actor_files(name: str, language: str) -> dict[str, str]:
    """Return the content of each file, by its path in the Actor's directory."""
    files = _COMMON | (_PYTHON if language == "python" else _JS)
    return {path: text.replace("NAME", name) for path, text in files.items()}
