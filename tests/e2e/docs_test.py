"""What the documentation says of the program: tests that it names exist, pipelines that it shows are sound."""

import json
import re
import unittest

from support import SOURCE, Folder

DOCS = sorted((SOURCE / "docs").glob("*.md")) + [SOURCE / "README.md"]


class Documentation(unittest.TestCase):
    def test_tests_that_are_named_exist(self):
        page = SOURCE / "docs" / "complaints.md"
        rows = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]
        self.assertGreaterEqual(len(rows), 13)
        for row in rows:
            complaint, threads, here, tests = (cell.strip() for cell in row.strip("| ").split(" | "))
            self.assertRegex(threads, r"#\d", complaint)
            links = re.findall(r'\[[^\]]+\]\(([^\s)]+)(?: "([^"]+)")?\)', tests)
            self.assertTrue(links, complaint)
            for path, name in links:
                file = (page.parent / path).resolve()
                self.assertTrue(file.is_file(), f"{complaint}: {path} isn't there")
                self.assertIn("/tests/", str(file))
                if file.name == "expect.json":
                    self.assertTrue((file.parent / "pipeline.json").is_file(), path)
                else:
                    self.assertTrue(name, f"{path}: which of its tests?")
                self.assertIn(name, file.read_text(), f"{path} has no such test")

    def test_pipelines_in_the_documentation_are_sound(self):
        checked = 0
        with Folder() as folder:
            for page in DOCS:
                for block in re.findall(r"^```json\n(.*?)^```", page.read_text(), re.M | re.S):
                    try:
                        pipeline = json.loads(block)
                    except ValueError:
                        continue  # a part of one
                    if "biophony" not in pipeline or "nodes" not in pipeline:
                        continue
                    checked += 1
                    folder.write("p.json", pipeline)
                    result = folder.run("check", "p.json")
                    self.assertIn(result.returncode, (0, 2), result.stderr)
                    for line in result.stderr.splitlines()[:-1]:  # whose files are the reader's
                        self.assertIn("file not found", line, f"{page.name}: {line}\n{block}")
        self.assertGreaterEqual(checked, 1)


if __name__ == "__main__":
    unittest.main()
