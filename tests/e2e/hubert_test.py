"""An encoder that hears waves, through the whole walk: what the host takes for granted holds for it, or is refused."""

import json
import struct
import unittest

from support import Folder, tiny_pipeline

HUBERT = {
    "extractor_conv_layer_config": [[16, 10, 5], [16, 3, 2], [16, 3, 2], [16, 3, 2], [16, 3, 2], [16, 2, 2], [16, 2, 2]],
    "encoder_embed_dim": 32, "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4, "encoder_num_layers": 1,
    "encoder_num_heads": 2, "encoder_ff_interm_features": 64, "encoder_layer_drop": 0.0, "window_seconds": 1.0,
}


def hubert_pipeline(recipe, masked):
    pipeline = tiny_pipeline()
    nodes = pipeline["nodes"]
    nodes["base"] = {"use": "encoder:hubert", "with": HUBERT}
    nodes["pretrained"]["with"]["masked"]["weight"] = masked
    nodes["isotropic"] = dict(nodes["merged"], **{"with": {"stages": [{"use": "merger:iso-c"}]}})
    for name in ("expert[taxon]", "joint"):
        nodes[name]["with"]["recipe"] = recipe
    return pipeline


class Hubert(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Folder()
        cls.folder.write("p.json", hubert_pipeline("small", 0))
        cls.first = cls.folder.run("run", "p.json", "--out", "run", "--threads", "1")

    @classmethod
    def tearDownClass(cls):
        cls.folder.__exit__()

    def test_it_ran_to_the_table(self):
        self.assertEqual(self.first.returncode, 0, self.first.stderr)
        table = json.loads((self.folder.path / "run" / "nodes" / "table" / "table.json").read_text())
        rows = {(row["model"], row["head"]) for row in table["rows"]}
        self.assertLessEqual({("joint", "own"), ("specialists", "own"), ("average", "ridge"), ("base", "ridge")}, rows)

    def test_masks_of_features_are_left_out_aloud(self):
        self.assertIn("the features of encoder:hubert are not bands over time", self.first.stdout + self.first.stderr)

    def test_task_vectors_reach_the_convolutions(self):
        data = (self.folder.path / "run" / "nodes" / "vector[frog]" / "task_vector.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        for name in ("feature_extractor.conv_layers.0.conv.weight", "encoder.transformer.pos_conv_embed.conv.weight_v"):
            begin, end = header[name]["data_offsets"]
            self.assertTrue(any(data[8 + length + begin : 8 + length + end]), name)

    def test_masked_prediction_is_refused(self):
        self.folder.write("masked.json", hubert_pipeline("small", 0.5))
        found = self.folder.run("run", "masked.json", "--out", "masked")
        self.assertNotEqual(found.returncode, 0)
        self.assertIn("doesn't say what its frames show", found.stderr)
        self.assertIn("pretrained", found.stderr)


if __name__ == "__main__":
    unittest.main()
