"""T-REG on trees; its rewards and its loss are tested beside the other preference losses."""

import numpy as np
from labelled_trees import NA, labelled_trees

from pipeline.credit import METHODS
from pipeline.credit.t_reg import TRegRewardParams, token_rewards


def test_trees_are_rewarded_token_by_token():
    #   0
    #   1   three tokens
    #   2   one is unknown
    better = np.array([-1, -1, -1, -2, -1, NA])
    worse = np.array([-9, -1 - np.log(3), -1, -2 + np.log(3), -1 - np.log(3), -1])
    trees = labelled_trees(
        (-1, 0, 1), (NA,) * 3, sizes=(1, 3, 2), kind=(0, 1, 1), better_logprobs=better, worse_logprobs=worse
    )
    found = METHODS["t_reg"].function(trees, TRegRewardParams())
    np.testing.assert_allclose(found.token_advantages, [0, 0.25, 0, -0.25, 0.25, NA], atol=1e-12)
    np.testing.assert_allclose(found.advantage, [0, 0, 0.25], atol=1e-12)
    np.testing.assert_array_equal(found.token_advantages[1:], token_rewards(better, worse)[1:])
