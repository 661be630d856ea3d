"""The plane's tables. Times are seconds since the epoch; digests and keys are raw bytes.

Which service owns a table stands in its comment: another service asks the owner, not the table.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite makes only INTEGER PRIMARY KEY an alias of the row id.
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# --- registry ----------------------------------------------------------------------------------

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("vendor", sa.Text, nullable=False),
    sa.Column("hardware", sa.Text, nullable=False),
    sa.Column("implementation_id", sa.LargeBinary, nullable=False),
    sa.Column("idevid_serial", sa.Text, nullable=False),
    sa.Column("idevid_key_sha256", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("attestation_key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("manufactured_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
    sa.Column("revoked_reason", sa.Text),
    comment="registry: one row for each device on a manufacturing manifest",
)
sa.Index("ix_devices_vendor_hardware", devices.c.vendor, devices.c.hardware)

presence = sa.Table(
    "presence",
    metadata,
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), primary_key=True),
    sa.Column("last_seen", sa.Float, nullable=False),
    comment="registry: written behind, so that a poll does not wait for a disk",
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("fingerprint", sa.LargeBinary, primary_key=True),
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), nullable=False, index=True),
    sa.Column("serial", sa.Text, nullable=False, unique=True),
    sa.Column("key_sha256", sa.LargeBinary, nullable=False, index=True),
    sa.Column("not_before", sa.Float, nullable=False),
    sa.Column("not_after", sa.Float, nullable=False),
    sa.Column("issued_at", sa.Float, nullable=False),
    sa.Column("der", sa.LargeBinary, nullable=False),
    comment="registry: every LDevID ever issued",
)

# --- verifier ----------------------------------------------------------------------------------

reference_values = sa.Table(
    "reference_values",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("release_id", _Id, nullable=False, index=True),
    sa.Column("release_version", sa.Text, nullable=False),
    sa.Column("security_counter", sa.BigInteger, nullable=False),
    sa.Column("implementation_id", sa.LargeBinary, nullable=False),
    sa.Column("measurement_type", sa.Text, nullable=False),
    sa.Column("measurement_value", sa.LargeBinary, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("signer_id", sa.LargeBinary, nullable=False),
    comment="verifier: what each release measures as",
)
sa.Index("ix_reference_values_implementation_id", reference_values.c.implementation_id)

appraisals = sa.Table(
    "appraisals",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("release_id", _Id),
    sa.Column("release_version", sa.Text),
    sa.Column("measured", sa.LargeBinary),
    sa.Column("evidence", sa.LargeBinary, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    comment="verifier: every piece of evidence that authenticated, and its signed result",
)
sa.Index("ix_appraisals_device_id_id", appraisals.c.device_id, appraisals.c.id)

spent_nonces = sa.Table(
    "spent_nonces",
    metadata,
    sa.Column("nonce", sa.LargeBinary, primary_key=True),
    sa.Column("expires", sa.Float, nullable=False, index=True),
    comment="verifier: nonces that were answered; a nonce is answered once, in whichever worker",
)

floors = sa.Table(
    "floors",
    metadata,
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), primary_key=True),
    sa.Column("security_counter", sa.BigInteger, nullable=False),
    comment="verifier: the highest security counter each device was seen to run",
)

# --- ota ---------------------------------------------------------------------------------------

releases = sa.Table(
    "releases",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("vendor", sa.Text, nullable=False),
    sa.Column("hardware", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("security_counter", sa.BigInteger, nullable=False),
    sa.Column("image_digest", sa.LargeBinary, nullable=False),
    sa.Column("signer_id", sa.LargeBinary, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("sha1", sa.Text, nullable=False),
    sa.Column("md5", sa.Text, nullable=False),
    sa.Column("published_at", sa.Float, nullable=False),
    sa.UniqueConstraint("vendor", "hardware", "version"),
    comment="ota: immutable; the artifact is stored under its sha256",
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("release_id", _Id, sa.ForeignKey(releases.c.id), nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False),
    comment="ota: one release for one cohort",
)

actions = sa.Table(
    "actions",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), nullable=False),
    sa.Column("rollout_id", _Id, sa.ForeignKey(rollouts.c.id), nullable=False, index=True),
    sa.Column("release_id", _Id, sa.ForeignKey(releases.c.id), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("open", sa.Integer, nullable=False),
    sa.Column("why", sa.Text),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("appraisal_id", _Id),
    comment="ota: one device's part in a rollout; open while it is not decided",
)
sa.Index(
    "ux_actions_open_device",
    actions.c.device_id,
    unique=True,
    sqlite_where=sa.text("open = 1"),
    postgresql_where=sa.text("open = 1"),
)
sa.Index("ix_actions_device_id_id", actions.c.device_id, actions.c.id)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("action_id", _Id, sa.ForeignKey(actions.c.id), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("execution", sa.Text, nullable=False),
    sa.Column("finished", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    comment="ota: what clients said; claims, kept as they came",
)

attributes = sa.Table(
    "attributes",
    metadata,
    sa.Column("device_id", _Id, sa.ForeignKey(devices.c.id), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="ota: what devices say of themselves (hawkBit configData); claims",
)

# --- everybody ---------------------------------------------------------------------------------

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("device", sa.Text),
    sa.Column("data", sa.Text, nullable=False),
    sqlite_autoincrement=True,
    comment="outbox: written in the transaction of the change it tells of",
)
