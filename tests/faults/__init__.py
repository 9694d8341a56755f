"""Kills and damage: `test_kills` kills a run in each stage; `python -m tests.faults.fault_table`
tries every fault; `test_fault_table` judges its judge. More: runs/test_stages, test_lock,
pipeline/test_processes, test_job_in_store; features/test_store_damage, training/test_fit."""
