"""Write clinical notes that express factor b in one of three styles.

A note grades a few symptoms. Each grade is b plus random noise of the symptom, cut into four steps. Each step has
several wordings that all hospitals share (so a federation can learn them together); the style differs by hospital:
telegram, prose, sections. No phrase states the label.
"""

import numpy as np

_GRADES = (  # absent, mild, moderate, severe
    ("no", "no", "denies", "without"),
    ("mild", "mild", "slight", "minimal"),
    ("moderate", "moderate", "definite", "some"),
    ("severe", "severe", "marked", "pronounced"),
)
_CUTS = (-0.75, 0.0, 0.75)
_SPREAD = 0.25  # standard deviation of a symptom around b
_SYMPTOMS = ("dyspnoea", "cough", "fever", "fatigue", "crackles", "tachypnoea", "chest pain", "confusion")
_SHORT = {"dyspnoea": "SOB", "chest pain": "CP", "tachypnoea": "RR up", "fever": "temp", "confusion": "AMS"}
_CONTEXT = (
    "Seen in the emergency department.",
    "Lives at home with family.",
    "Known hypertension.",
    "Former smoker.",
    "Medication list reviewed.",
    "Referred by the family doctor.",
    "Vaccinations are up to date.",
    "Type 2 diabetes, on tablets.",
    "No known drug allergies.",
    "Symptoms began three days ago.",
    "Walks with a stick.",
    "Blood cultures were taken.",
)


def write_note(rng: np.random.Generator, style: str, b: float, age: int, sex: str) -> str:
    """Write a note in one `style` ("prose", "telegram" or "sections") for a patient with factor `b`."""
    count = int(rng.integers(5, 8))
    symptoms = rng.permutation(_SYMPTOMS)[:count].tolist()
    grades = np.digitize(b + _SPREAD * rng.standard_normal(count), _CUTS)
    findings = [(str(rng.choice(_GRADES[grade])), symptom) for grade, symptom in zip(grades, symptoms, strict=True)]
    context = rng.permutation(_CONTEXT)[: int(rng.integers(1, 3))].tolist()
    return _STYLES[style](rng, findings, context, age, sex)


Findings = list[tuple[str, str]]


def _write_prose(rng: np.random.Generator, findings: Findings, context: list[str], age: int, sex: str) -> str:
    who = "woman" if sex == "F" else "man"
    leads = {
        "denies": ("The patient denies {s}.", "Denies {s}."),
        "no": ("There is no {s}.", "Asked about it, no {s}."),
        "without": ("The course was without {s}.",),
    }
    usual = ("There is {g} {s}.", "Reports {g} {s}.", "We note {g} {s}.")
    sentences = [f"A {age} year old {who} was assessed today."]
    for grade, symptom in findings:
        template = str(rng.choice(leads.get(grade, usual)))
        sentences.append(template.format(g=grade, s=symptom))
    return " ".join([*sentences, *context])


def _write_telegram(rng: np.random.Generator, findings: Findings, context: list[str], age: int, sex: str) -> str:
    words = [f"{grade} {_SHORT.get(symptom, symptom)}" for grade, symptom in findings]
    separator = str(rng.choice([", ", "; ", " / "]))
    return f"{age}{sex}. {separator.join(words)}. {context[0].lower()}"


def _write_sections(rng: np.random.Generator, findings: Findings, context: list[str], age: int, sex: str) -> str:
    split = len(findings) - 2
    observed = "\n".join(f"- {grade} {symptom}" for grade, symptom in findings[:split])
    overall = " and ".join(f"{grade} {symptom}" for grade, symptom in findings[split:])
    verb = str(rng.choice(["Clinically", "Overall", "In summary"]))
    history = " ".join(context)
    return f"HISTORY: {age} y, {sex}. {history}\nFINDINGS:\n{observed}\nIMPRESSION: {verb} {overall}."


_STYLES = {"prose": _write_prose, "telegram": _write_telegram, "sections": _write_sections}
