"""The report and the facts that it was made of, in one archive: `--data bundle=FILE.tar.gz`. Changes nothing."""

from gpumend.deploy import bundle_report, session

session.begin(finish=bundle_report.finish, shown=False)
