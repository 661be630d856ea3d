"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("implementation_id", sa.LargeBinary(), nullable=False),
        sa.Column("idevid_serial", sa.Text(), nullable=False),
        sa.Column("idevid_key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("attestation_key", sa.LargeBinary(), nullable=False),
        sa.Column("manufactured_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.Column("revoked_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("attestation_key", name=op.f("uq_devices_attestation_key")),
        sa.UniqueConstraint("idevid_key_sha256", name=op.f("uq_devices_idevid_key_sha256")),
        sa.UniqueConstraint("name", name=op.f("uq_devices_name")),
        comment="registry: one row for each device on a manufacturing manifest",
    )
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.create_index("ix_devices_vendor_hardware", ["vendor", "hardware"], unique=False)

    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        comment="outbox: written in the transaction of the change it tells of",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reference_values",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("release_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("release_version", sa.Text(), nullable=False),
        sa.Column("security_counter", sa.BigInteger(), nullable=False),
        sa.Column("implementation_id", sa.LargeBinary(), nullable=False),
        sa.Column("measurement_type", sa.Text(), nullable=False),
        sa.Column("measurement_value", sa.LargeBinary(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("signer_id", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reference_values")),
        comment="verifier: what each release measures as",
    )
    with op.batch_alter_table("reference_values", schema=None) as batch_op:
        batch_op.create_index("ix_reference_values_implementation_id", ["implementation_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_reference_values_release_id"), ["release_id"], unique=False)

    op.create_table(
        "releases",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("hardware", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("security_counter", sa.BigInteger(), nullable=False),
        sa.Column("image_digest", sa.LargeBinary(), nullable=False),
        sa.Column("signer_id", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("sha1", sa.Text(), nullable=False),
        sa.Column("md5", sa.Text(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint(
            "vendor", "hardware", "version", name=op.f("uq_releases_vendor_hardware_version")
        ),
        comment="ota: immutable; the artifact is stored under its sha256",
    )
    op.create_table(
        "spent_nonces",
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_spent_nonces")),
        comment="verifier: nonces that were answered; a nonce is answered once, in whichever worker",
    )
    with op.batch_alter_table("spent_nonces", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_spent_nonces_expires"), ["expires"], unique=False)

    op.create_table(
        "appraisals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("release_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("release_version", sa.Text(), nullable=True),
        sa.Column("measured", sa.LargeBinary(), nullable=True),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_appraisals_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_appraisals")),
        comment="verifier: every piece of evidence that authenticated, and its signed result",
    )
    with op.batch_alter_table("appraisals", schema=None) as batch_op:
        batch_op.create_index("ix_appraisals_device_id_id", ["device_id", "id"], unique=False)

    op.create_table(
        "attributes",
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_attributes_device_id")),
        sa.PrimaryKeyConstraint("device_id", "name", name=op.f("pk_attributes")),
        comment="ota: what devices say of themselves (hawkBit configData); claims",
    )
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("serial", sa.Text(), nullable=False),
        sa.Column("key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_certificates_device_id")),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_certificates")),
        sa.UniqueConstraint("serial", name=op.f("uq_certificates_serial")),
        comment="registry: every LDevID ever issued",
    )
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_certificates_device_id"), ["device_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_certificates_key_sha256"), ["key_sha256"], unique=False)

    op.create_table(
        "floors",
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("security_counter", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_floors_device_id")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_floors")),
        comment="verifier: the highest security counter each device was seen to run",
    )
    op.create_table(
        "presence",
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_presence_device_id")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_presence")),
        comment="registry: written behind, so that a poll does not wait for a disk",
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("release_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name=op.f("fk_rollouts_release_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        comment="ota: one release for one cohort",
    )
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_rollouts_release_id"), ["release_id"], unique=False)

    op.create_table(
        "actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rollout_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("release_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("open", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.Column("appraisal_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_actions_device_id")),
        sa.ForeignKeyConstraint(["release_id"], ["releases.id"], name=op.f("fk_actions_release_id")),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name=op.f("fk_actions_rollout_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_actions")),
        comment="ota: one device's part in a rollout; open while it is not decided",
    )
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.create_index("ix_actions_device_id_id", ["device_id", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_actions_rollout_id"), ["rollout_id"], unique=False)
        batch_op.create_index(
            "ux_actions_open_device",
            ["device_id"],
            unique=True,
            sqlite_where=sa.text("open = 1"),
            postgresql_where=sa.text("open = 1"),
        )

    op.create_table(
        "feedback",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("action_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("execution", sa.Text(), nullable=False),
        sa.Column("finished", sa.Text(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["action_id"], ["actions.id"], name=op.f("fk_feedback_action_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
        comment="ota: what clients said; claims, kept as they came",
    )
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_feedback_action_id"), ["action_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("feedback", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_feedback_action_id"))

    op.drop_table("feedback")
    with op.batch_alter_table("actions", schema=None) as batch_op:
        batch_op.drop_index(
            "ux_actions_open_device", sqlite_where=sa.text("open = 1"), postgresql_where=sa.text("open = 1")
        )
        batch_op.drop_index(batch_op.f("ix_actions_rollout_id"))
        batch_op.drop_index("ix_actions_device_id_id")

    op.drop_table("actions")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rollouts_release_id"))

    op.drop_table("rollouts")
    op.drop_table("presence")
    op.drop_table("floors")
    with op.batch_alter_table("certificates", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_certificates_key_sha256"))
        batch_op.drop_index(batch_op.f("ix_certificates_device_id"))

    op.drop_table("certificates")
    op.drop_table("attributes")
    with op.batch_alter_table("appraisals", schema=None) as batch_op:
        batch_op.drop_index("ix_appraisals_device_id_id")

    op.drop_table("appraisals")
    with op.batch_alter_table("spent_nonces", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_spent_nonces_expires"))

    op.drop_table("spent_nonces")
    op.drop_table("releases")
    with op.batch_alter_table("reference_values", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_reference_values_release_id"))
        batch_op.drop_index("ix_reference_values_implementation_id")

    op.drop_table("reference_values")
    op.drop_table("events")
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.drop_index("ix_devices_vendor_hardware")

    op.drop_table("devices")
