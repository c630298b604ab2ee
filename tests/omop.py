"""A database in the OMOP Common Data Model 5.4 with synthetic people, written by SQLAlchemy into any of three kinds."""

import datetime
import random

from sqlalchemy import BigInteger, Column, Date, DateTime, Float, MetaData, String, Table, create_engine

CRP, PNEUMONIA, VIRAL_PNEUMONIA, RARE, SMOKER = 3020460, 255848, 260139, 4000001, 4275495
MG_L, MG_DL, LESS = 8751, 8840, 4171756
CONCEPTS = [
    (CRP, "C reactive protein", "1988-5"),
    (MG_L, "milligram per liter", "mg/l"),
    (MG_DL, "milligram per deciliter", "mg/dl"),
    (0, "No matching concept", "No matching concept"),
    (PNEUMONIA, "Pneumonia", "233604007"),
    (VIRAL_PNEUMONIA, "Viral pneumonia", "75570004"),
    (45877994, "Yes", "LA33-6"),
    (SMOKER, "Tobacco smoking behavior", "365981007"),
]


def build_tables(schema=None):
    """Return the tables of the model that variables are read from."""
    meta = MetaData(schema=schema)

    def whole(*names):
        return [Column(name, BigInteger) for name in names]

    def moment(name):
        return [Column(f"{name}_date", Date), Column(f"{name}_datetime", DateTime)]

    def table(name, *columns):
        return Table(name, meta, *columns)

    table(
        "person",
        *whole("person_id", "gender_concept_id", "year_of_birth"),
        Column("person_source_value", String(50)),
    )
    table(
        "measurement",
        *whole("measurement_id", "person_id", "measurement_concept_id"),
        *moment("measurement"),
        *whole("operator_concept_id", "value_as_concept_id", "unit_concept_id"),
        Column("value_as_number", Float),
    )
    table(
        "observation",
        *whole("observation_id", "person_id", "observation_concept_id"),
        *moment("observation"),
        *whole("value_as_concept_id", "unit_concept_id"),
        Column("value_as_number", Float),
        Column("value_as_string", String(60)),
    )
    table(
        "condition_occurrence",
        *whole("condition_occurrence_id", "person_id", "condition_concept_id"),
        *moment("condition_start"),
    )
    table("concept", *whole("concept_id"), Column("concept_name", String(255)), Column("concept_code", String(50)))
    table("concept_ancestor", *whole("ancestor_concept_id", "descendant_concept_id"))
    return meta


def fill_database(url, patients, schema=None):
    """Write a person for each Patient ID; every second one has viral pneumonia and a high C reactive protein.

    Each has an early low value, a later one (in mg/dl for every fifth), and a last one that is a bound only.
    """
    engine, meta = create_engine(url), build_tables(schema)
    day, rows = datetime.date(2023, 5, 1), {name: [] for name in meta.tables}
    draw = random.Random(1)
    prefix = f"{schema}." if schema else ""

    def add(name, **cells):
        rows[prefix + name].append(cells)

    for number, patient in enumerate(patients, start=1):
        ill = number % 2 == 0
        add(
            "person",
            person_id=number,
            gender_concept_id=8507 if number % 3 else 8532,
            year_of_birth=1940 + number % 50,
            person_source_value=patient,
        )
        crp = round(20.5 + 60 * ill + draw.random(), 2)
        coarse = number % 5 == 0
        for place, (value, unit, operator) in enumerate(
            [(5.0, MG_L, None), (crp / 10 if coarse else crp, MG_DL if coarse else MG_L, 4172703), (5.0, MG_L, LESS)]
        ):
            add(
                "measurement",
                measurement_id=3 * number + place,
                person_id=number,
                measurement_concept_id=CRP,
                measurement_date=day + datetime.timedelta(days=place),
                measurement_datetime=datetime.datetime(2023, 5, 1 + place, 8, 30),
                operator_concept_id=operator,
                value_as_concept_id=0,
                unit_concept_id=unit,
                value_as_number=value,
            )
        add(
            "observation",
            observation_id=number,
            person_id=number,
            observation_concept_id=SMOKER,
            observation_date=day,
            observation_datetime=None,
            value_as_concept_id=45877994,
            unit_concept_id=0,
            value_as_number=None,
            value_as_string=None,
        )
        for concept in [VIRAL_PNEUMONIA] * ill + [RARE] * (number <= 3):
            add(
                "condition_occurrence",
                condition_occurrence_id=10 * number + (concept == RARE),
                person_id=number,
                condition_concept_id=concept,
                condition_start_date=day,
                condition_start_datetime=None,
            )
    for identifier, name, code in CONCEPTS:
        add("concept", concept_id=identifier, concept_name=name, concept_code=code)
    for below in (PNEUMONIA, VIRAL_PNEUMONIA):
        add("concept_ancestor", ancestor_concept_id=PNEUMONIA, descendant_concept_id=below)
    with engine.begin() as connection:
        meta.create_all(connection, checkfirst=False)
        for name, table in meta.tables.items():
            connection.execute(table.insert(), rows[name])
    engine.dispose()
