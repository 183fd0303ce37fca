# Copyright (c) monai_vqprior contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The words of paths that do not identify a subject: contrasts, sessions, scans, groups."""

from __future__ import annotations

import re

__all__ = ["DERIVED_WORD", "LEVEL", "RUN_WORD", "SCAN_WORD", "SEPARATORS", "SESSION_WORD"]

#: what stands between the words of a name.
SEPARATORS = "_. -"
_CLASS = r"_. \-"
# Before and after a word of a name.
_BEGIN, _END = rf"(?<![^{_CLASS}/])", rf"(?![^{_CLASS}/])"

_DATE = (
    r"(?:19|20)\d\d(?P<dash>[-_.]?)(?:0[1-9]|1[0-2])(?P=dash)(?:0[1-9]|[12]\d|3[01])"
    r"(?:[T_-]?\d\d[_-]?\d\d(?:[_-]?\d\d(?:\.\d+)?)?)?"
)
_SESSION = (
    r"(?:ses|session)-[0-9a-z]+|ses(?:s|sion)?[-_ ]?\d+"
    r"|(?:visit|vis|tp|time|timepoint|follow-?up|fu|exam|study|day|week|month|year)[-_ ]?\d+"
    r"|(?:baseline|bl|follow-?up|first|second|third|scan-?re-?scan|rescan|retest)|v\d{1,2}|t0|d\d{4}"
    r"|m(?:00|03|06|12|18|24|30|36|48|60|72|84|96|108|120)|mr[_-]?d?\d+(?:-\d+)?"
)
_SCAN = (
    r"(?:run|acq|ce|rec|dir|echo|flip|inv|mt|task|space|desc|res|den|hemi|chunk|mod|recording)-[0-9a-z]+"
    r"|(?:run|acq|acquisition|rep|repeat|echo|mpr|rec)[-_ ]?\d*"
)
_SERIES = r"(?:scan|series|serie|ser|se|st)[-_ ]?\d*"
_CONTRAST = (
    r"t1(?:w|c|ce|gd|n|km|post|pre|map|rho)?|t2(?:w|f|n|map|star)?|t2[-_]?flair|flair|pdw?|swi|dwi|dti|adc|b0|b\d{3,4}"
    r"|mp2?rage|spgr|bravo|tse|fse|gre|epi|bold|fmri|asl|cb[fv]|mra|mrv|tof|angio|unit1|in_?plane|anat|anatomical|func"
    r"|functional|fmap|perf|structural|pet|ct|mri?|axial|ax|coronal|cor|sagittal|sag|transversal|transverse|tra|post|pre"
    r"|contrast|gad?|gadolinium|[137](?:\.5)?t"
)
# What was done to a scan.
_DERIVED = (
    r"n[34]|anon|masked|gfc|sbj|brain|stripped|skull_?stripp?(?:ed)?|no_?skull|bet|ss|reg|registered|coreg(?:istered)?|mni"
    r"(?:152)?|t88|norm(?:alized)?|orig|raw|processed|preproc(?:essed)?|resampled|bias|corr(?:ected)?|warped|acpc|dc"
    r"|restore|nii|nifti|dicom|png|jpe?g|tiff?|slices?|images?|data"
)
_SPLIT = r"train(?:ing)?(?:set)?|val(?:id(?:ation|ate)?)?|test(?:ing)?(?:set)?|dev|hold_?out"
# Folders that gather subjects: groups, splits, sites and parts of a data set.
_GROUP = (
    rf"{_SPLIT}|(?:\w+[_-])?(?:part|disc|disk|fold|batch)[-_ ]?\d*"
    r"|(?:site|cent(?:er|re)|scanner|hospital|cohort|group|class|grade|set|dataset)"
    r"[-_ ]?[0-9a-z]?\d*|datasets?|all|imgs?|pics?|pictures?|files?|inputs?|outputs?|source(?:data)?|raw_?data|"
    r"derivatives?|volumes?|scans?|sessions?|series|healthy|normals?|controls?|cn|hc|nc|ad|e?mci|lmci|smc|patients?|cases?"
    r"|subjects?|participants?|persons?|people|disease[ds]?|pathological|abnormal|ill|sick|yes|no|positive|negative"
    r"|benign|malignant|[hl]gg|gbm|males?|females?|men|women|left|right"
    r"|(?:very|no|non|not|mild|moderate|severe|[_\- ])*(?:dement(?:ed|ia)?|impairment|impaired|alzheimers?|tumou?rs?"
    r"|cancer)"
    r"|(?:glioma|glioblastoma|meningioma|pituitary|astrocytoma|carcinoma|schwannoma|neurocytoma|ependymoma|papilloma"
    r"|medulloblastoma|oligodendroglioma|germinoma|ganglioglioma|stroke|ms|parkinsons?|pd)(?:[_\- ]?tumou?r)?"
)
#: a folder that gathers scans or subjects: a contrast, a group, a split.
LEVEL = re.compile(rf"{_GROUP}|{_CONTRAST}|{_DERIVED}", re.IGNORECASE)
#: words for a visit, among others in a name.
SESSION_WORD = re.compile(rf"{_BEGIN}(?P<word>{_DATE}|{_SESSION}){_END}", re.IGNORECASE)
#: words for a scan or a contrast.
SCAN_WORD = re.compile(rf"{_BEGIN}(?:{_SCAN}|{_SERIES}|{_CONTRAST}){_END}", re.IGNORECASE)
#: words for a scan whose number is never that of a slice.
RUN_WORD = re.compile(rf"{_BEGIN}(?:{_SCAN}|{_CONTRAST}){_END}", re.IGNORECASE)
#: words for what was done to a scan.
DERIVED_WORD = re.compile(rf"{_BEGIN}(?:{_DERIVED}){_END}", re.IGNORECASE)
