from kcframe.cli.main import main

main()
