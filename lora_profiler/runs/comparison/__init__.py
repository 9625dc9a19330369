"""What is worked out of records: errors of predictions, regressions between two sets, throughput,
MFU, paired runs."""
