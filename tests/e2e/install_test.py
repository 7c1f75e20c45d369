"""The installed tree: moved elsewhere, it still runs."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from support import BUILD, Folder, tiny_pipeline


class Installed(unittest.TestCase):
    def test_it_runs_from_anywhere(self):
        with tempfile.TemporaryDirectory(prefix="bph-install-") as place, Folder() as folder:
            first, second = pathlib.Path(place) / "first", pathlib.Path(place) / "second"
            subprocess.run([os.environ.get("CMAKE", "cmake"), "--install", str(BUILD), "--prefix", str(first)], check=True, stdout=subprocess.DEVNULL)
            shutil.move(first, second)
            program = second / "bin" / "biophony"
            folder.write("p.json", tiny_pipeline())
            environment = {key: value for key, value in folder.environment.items() if key != "LD_LIBRARY_PATH"}
            examples = second / "share" / "biophony" / "examples" / "pipelines"
            for command in (["plugins"], ["check", str(examples / "quickstart.json")], ["check", "p.json"], ["run", "p.json", "--out", "run", "--threads", "1"]):
                result = subprocess.run([str(program), *command], cwd=folder.path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertNotIn(str(BUILD), result.stdout)
            linked = subprocess.run(["ldd", str(next(second.rglob("libbiophony-torch.so")))], capture_output=True, text=True).stdout
            self.assertNotIn("not found", linked)
            if list(second.rglob("libtorch_cpu.so*")):
                self.assertIn(str(second), [line for line in linked.splitlines() if "libtorch_cpu" in line][0])


if __name__ == "__main__":
    unittest.main()
