from trainer.console import exit_program
from trainer.train import main

exit_program(main())
