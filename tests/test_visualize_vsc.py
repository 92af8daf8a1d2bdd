"""What VSC kept, drawn and counted; the command itself runs in test_deepmsi_frames."""

import numpy as np

from mer_jax import visualize_vsc
from mer_jax.data.frames import encode_frames
from mer_jax.visualize_vsc import Grid


def test_tokens_in_a_box():
    square = encode_frames([np.zeros((32, 32, 3), np.uint8)], "uint8")
    found = visualize_vsc.tokens_in(np.array([0.25, 0, 0.5, 0.25]), square, Grid(8, 1 / 8))
    assert np.argwhere(found).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    wide = encode_frames([np.zeros((20, 40, 3), np.uint8)], "uint8")  # the square in the middle is columns 10 to 30
    found = visualize_vsc.tokens_in(np.array([0.0, 0, 0.5, 1]), wide, Grid(4, 1 / 4))
    assert np.argwhere(found).tolist() == [[r, c] for r in range(4) for c in (0, 1)]


def test_the_share_in_the_region_against_chance():
    """Two clips: 3 of 4 kept tokens in the region, which has 4 of 16 tokens: 3 times chance."""
    said = visualize_vsc.comparison(np.array([[3, 4, 4, 16], [3, 4, 4, 16]]))
    assert "of the kept tokens 75.0% lie in the region, of all tokens 25.0%: 3.00 times as many as by chance" in said
    assert "3.00 to 3.00" in said
    assert "of the region's tokens 75.0% are kept, of all 25.0%" in said
    assert "no token has its middle in a region" in visualize_vsc.comparison(np.array([[0, 4, 0, 16]]))


def test_dropped_tokens_are_dim():
    image = np.full((32, 32, 3), 200, np.uint8)
    shown = visualize_vsc.dimmed(image, np.array([0, 5]), 4)
    side = visualize_vsc.SIDE // 4
    assert (shown[:side, :side] == 200).all()
    assert (shown[side : 2 * side, side : 2 * side] == 200).all()
    assert shown[:side, side:].max() < 60
