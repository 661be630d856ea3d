"""The database: schema, migrations, compiled statements."""
