"""Recordings as devices and hospital systems export them: DICOM, MUSE and HL7 aECG XML, SCP-ECG, EDF, ISHNE.

`recording` says what a recording is and tells files apart by their content; modules read a format each; `source` makes
an archive of a folder of them. Readers hold a file to what it says of itself, and what does not fit is said: no reader
has a default for a unit, a resolution, a rate or a lead.
"""
