from kcframe.cli import main

main()
