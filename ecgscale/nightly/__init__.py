"""What runs every night.

gates           may what was explained tonight be published? quarantine rate (quarantine), freshness and volume
                (volume, usual), drift against a reference period (drift; drift_told: as sentences)
gate_settings   thresholds; evidence: what the gates look at; findings: what they say
reference       the reference period: a sample of sound records
quantities      the numbers of a record that may drift; placements: where they lie within the reference
refit           a new cluster model under the old ids (lineage), compared with the old one (comparison)
promote         which dataset is served; carried: what goes over from one to the next
verify          is everything there, possible, and what the network computes? (verify_*); runs: records of runs
status          what is published, waits, failed or is held back; quarantined: records, one by one; held: shards;
                history: what was published and decided before
forget          a patient goes from everything (forget_*), and all of it is searched (traces_of_patient, patient_search)
"""
