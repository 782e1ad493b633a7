"""`make clients`: lint the documents, generate clients of the API in three languages, and compile them.

The generators come from npm and PyPI into `build/clients`. Where npm or Java is missing, the step is skipped
with a line that says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("build/clients")
TOOLS = FOLDER / "tools"  # of Python
NPM_TOOLS = (
    "@redocly/cli@2",
    "openapi-typescript@7",
    "typescript@5",
    "@asyncapi/parser@3",
)
PYTHON_TOOLS = ("openapi-python-client", "openapi-generator-cli")
# A number, a row or rows are one type each in JSON, as a text or tokens are; the generator's code for Java
# cannot tell lists apart.
UNIONS = (
    "Numbers",
    "NumbersWithGaps",
    "BulkNumbers",
    "BulkNumbersWithGaps",
    "ForecastNumbers",
    "FutureRows",
    "Observed",
    "Prompt",
    "Quantiles",
    "StopTexts",
)
JAVA_PACKAGES = "invokerPackage=carryover,apiPackage=carryover.api,modelPackage=carryover.model"
DEBIAN = Path("/usr/share/java")
DEBIAN_JARS = [DEBIAN / f"{name}.jar" for name in ("httpmime", "httpcore", "geronimo-annotation-1.3-spec")]
CHECK_ASYNCAPI = """
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
const { document, diagnostics } = await new Parser().parse(readFileSync("asyncapi.json", "utf8"));
for (const found of diagnostics) console.log(found.message);
process.exit(document ? 0 : 1);
"""


class Skipped(Exception):
    """A step cannot be done on this machine."""


def main() -> int:
    """Do every step, and return 1 if one failed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_documents()
    failed = False
    for step in (lint_documents, typescript_client, python_client, java_client):
        failed |= not succeeds(step)
    return int(failed)


def succeeds(step: Callable[[], str]) -> bool:
    """Whether a step has not failed; prints what came of it."""
    name = step.__name__.replace("_", " ")
    try:
        print(f"{name}: {step()}", flush=True)
    except Skipped as reason:
        print(f"{name}: skipped, {reason}", flush=True)
    except subprocess.CalledProcessError as error:
        print(f"{name}: FAILED\n{error.stdout}", flush=True)
        return False
    return True


def write_documents() -> None:
    """Write both documents, as a server with the default settings has them."""
    from app.api.asyncapi import asyncapi_document
    from app.config import Settings
    from app.main import create_app

    app = create_app(Settings())
    (FOLDER / "openapi.json").write_text(json.dumps(app.openapi()))
    document = asyncapi_document(app.version, "localhost:8000", secure=False, needs_key=False)
    (FOLDER / "asyncapi.json").write_text(json.dumps(document))


def lint_documents() -> str:
    """Redocly's recommended rules for OpenAPI, and the parser of AsyncAPI."""
    install_npm_tools()
    run("npx", "redocly", "lint", "openapi.json", "--max-problems=1000")
    (FOLDER / "check.mjs").write_text(CHECK_ASYNCAPI)
    run("node", "check.mjs")
    return "both are valid"


def typescript_client() -> str:
    """Types for openapi-fetch, compiled strictly."""
    install_npm_tools()
    run("npx", "openapi-typescript", "openapi.json", "--output", "carryover.ts")
    run("npx", "tsc", "--strict", "--noEmit", "carryover.ts")
    return "compiled"


def python_client() -> str:
    """A package with httpx and attrs; every module of it is imported."""
    install_python_tools()
    options = ("--path", "openapi.json", "--meta", "none", "--output-path", "carryover_api", "--overwrite")
    run_python("-m", "openapi_python_client", "generate", *options)
    walk = (
        "import pkgutil, importlib, carryover_api as api;"
        "names = [module.name for module in pkgutil.walk_packages(api.__path__, 'carryover_api.')];"
        "print(len(list(map(importlib.import_module, names))))"
    )
    return f"imported {run_python('-c', walk).strip()} modules"


def java_client() -> str:
    """A client on java.net.http and Jackson, compiled with the jars that Debian has, or by Maven."""
    if shutil.which("javac") is None:
        raise Skipped("there is no javac")
    install_python_tools()
    generator = next(TOOLS.rglob("openapi-generator.jar")).relative_to(FOLDER)
    shutil.rmtree(FOLDER / "java", ignore_errors=True)
    options = {
        "-i": "openapi.json",
        "-g": "java",
        "-o": "java",
        "--library": "native",
        "--additional-properties": f"openApiNullable=false,{JAVA_PACKAGES}",
        "--schema-mappings": ",".join(f"{name}=Object" for name in UNIONS),
    }
    run("java", "-jar", str(generator), "generate", *(word for option in options.items() for word in option))
    missing = [str(jar) for jar in DEBIAN_JARS if not jar.exists()]
    if missing:
        if shutil.which("mvn") is None:
            raise Skipped(f"there is neither mvn nor {', '.join(missing)}")
        run("mvn", "-q", "-f", "java/pom.xml", "compile")
        return "compiled by Maven"
    jars = os.pathsep.join(map(str, [generator, *DEBIAN_JARS]))
    sources = [str(path.relative_to(FOLDER)) for path in (FOLDER / "java/src/main").rglob("*.java")]
    run("javac", "-d", "java/classes", "-cp", jars, *sources)
    return f"compiled {len(sources)} files"


def install_npm_tools() -> None:
    """Install what npm has, once."""
    if shutil.which("npm") is None:
        raise Skipped("there is no npm")
    if not (FOLDER / "node_modules").exists():
        (FOLDER / "package.json").write_text('{"private": true, "type": "module"}')
        run("npm", "install", "--no-audit", "--no-fund", *NPM_TOOLS)


def install_python_tools() -> None:
    """Install what PyPI has, once, beside the environment of the project."""
    if not TOOLS.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--target", "tools", *PYTHON_TOOLS)


def run(*command: str, **environment: str) -> str:
    """Run in the folder of the clients, and return what it prints."""
    done = subprocess.run(
        command, cwd=FOLDER, env=os.environ | environment, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


def run_python(*arguments: str) -> str:
    """Run Python with the tools."""
    return run(sys.executable, *arguments, PYTHONPATH=os.pathsep.join(["tools", "."]))


if __name__ == "__main__":
    sys.exit(main())
