import sys

from launch.command import main

sys.exit(main(sys.argv[1:]))
