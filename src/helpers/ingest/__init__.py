"""Your own data into a cohort: ``python -m helpers.ingest fmriprep|eeg ... --out cohort.zarr``.

atlases       which regions: two that are known by name, or a label image of yours
participants  participants.tsv -> the columns that a cohort needs; nothing is guessed
fmriprep      one run of BIDS derivatives -> series in regions and their quality
eeg           one BIDS recording -> series in regions and their quality
work          many runs at once, resumable; the broken ones are listed and left out
report        an HTML page with a table and a picture of every run
"""
