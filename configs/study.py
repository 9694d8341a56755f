"""The study: both targets of the built-in world, every method, five seeds.

    python -m experiments.run_all --config=configs/study.py --workdir=runs/study

About half an hour on 2 cores without bids, tsds_knn, tsds_kde, uot and gip. Everything else is as
in the demo.
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
    config = tiny.get_config()
    config.world.targets = "lookup_arithmetic,sorting_letters"
    config.run.methods = (
        "none,full,random,length,bm25,dsir,rds_plus,less,less_rr,bids,gist,knn_even,tsds_knn,"
        "tsds_kde,uot,coverage,pursuit,gip,loss_drop,embed,g2is_paper,g2is"
    )
    config.run.seeds = "0,1,2,3,4"
    return config
