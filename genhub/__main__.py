from genhub.cli import main

main()
